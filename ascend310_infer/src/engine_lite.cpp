// MindSpore Lite's C++ API (2.x, cloud-side inference), for Ascend 310 and 310P and for the CPU.
//
// https://www.mindspore.cn/lite/api/en/master/index.html. Buckets that share a file share a model
// and its weights, and are told apart by Resize: so does a model that converter_lite made with
// `dynamic_dims` of several lengths.

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "errors.h"
#include "half.h"
#include "include/api/context.h"
#include "include/api/model.h"
#include "include/api/types.h"

namespace speech::internal {
namespace {

using mindspore::DataType;
using mindspore::MSTensor;
using Shape = std::vector<std::int64_t>;

std::string formatted(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// Bytes of `count` values; throws where the tensor holds another number of them.
void check_bytes(const MSTensor& tensor, std::size_t count, std::size_t size) {
  if (tensor.DataSize() != count * size)
    throw std::runtime_error("tensor " + tensor.Name() + " " + formatted(tensor.Shape()) + " has " +
                             std::to_string(tensor.DataSize()) + " bytes, expected " +
                             std::to_string(count * size));
}

void put_floats(MSTensor tensor, const std::vector<float>& values) {
  const bool half = tensor.DataType() == DataType::kNumberTypeFloat16;
  check_bytes(tensor, values.size(), half ? sizeof(std::uint16_t) : sizeof(float));
  void* data = tensor.MutableData();
  if (data == nullptr) throw std::runtime_error("tensor " + tensor.Name() + " has no memory");
  if (!half) {
    std::memcpy(data, values.data(), values.size() * sizeof(float));
    return;
  }
  auto* halves = static_cast<std::uint16_t*>(data);
  for (std::size_t i = 0; i < values.size(); ++i) halves[i] = to_half(values[i]);
}

void put_ints(MSTensor tensor, const std::vector<std::int32_t>& values) {
  check_bytes(tensor, values.size(), sizeof(std::int32_t));
  void* data = tensor.MutableData();
  if (data == nullptr) throw std::runtime_error("tensor " + tensor.Name() + " has no memory");
  std::memcpy(data, values.data(), values.size() * sizeof(std::int32_t));
}

std::vector<float> get_floats(const MSTensor& tensor, std::size_t count) {
  const bool half = tensor.DataType() == DataType::kNumberTypeFloat16;
  if (!half && tensor.DataType() != DataType::kNumberTypeFloat32)
    throw std::runtime_error("output " + tensor.Name() + " is neither float32 nor float16");
  check_bytes(tensor, count, half ? sizeof(std::uint16_t) : sizeof(float));
  const std::shared_ptr<const void> data = tensor.Data();
  if (data == nullptr) throw std::runtime_error("output " + tensor.Name() + " has no data");
  if (!half) {
    const auto* values = static_cast<const float*>(data.get());
    return {values, values + count};
  }
  const auto* halves = static_cast<const std::uint16_t*>(data.get());
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = from_half(halves[i]);
  return values;
}

std::vector<std::int32_t> get_ints(const MSTensor& tensor, std::size_t count) {
  if (tensor.DataType() != DataType::kNumberTypeInt32)
    throw std::runtime_error("output " + tensor.Name() + " is not int32");
  check_bytes(tensor, count, sizeof(std::int32_t));
  const std::shared_ptr<const void> data = tensor.Data();
  if (data == nullptr) throw std::runtime_error("output " + tensor.Name() + " has no data");
  const auto* values = static_cast<const std::int32_t*>(data.get());
  return {values, values + count};
}

class LiteEngine : public Engine {
 public:
  explicit LiteEngine(const EngineOptions& options) : options_(options) {}

  void load(const Description& description, const std::vector<std::size_t>& buckets) override {
    for (const std::size_t index : buckets) {
      const Bucket& bucket = description.buckets[index];
      std::shared_ptr<mindspore::Model>& model = models_[bucket.file];
      if (model == nullptr) model = build(bucket.file);
      files_[index] = bucket.file;
      Output output;
      try {
        // The first batch of a shape takes longer.
        run(index, zero_input(bucket, description.dimension), output);
      } catch (const std::runtime_error& error) {
        throw UsageError(bucket.file.string() + ": " + error.what());
      }
    }
  }

  void run(std::size_t bucket, const Input& input, Output& output) override {
    mindspore::Model& model = *models_.at(files_.at(bucket));
    fit(model, input);
    std::vector<MSTensor> inputs = model.GetInputs();
    const std::size_t first = features_first(inputs) ? 0 : 1;
    put_floats(inputs[first], input.features);
    put_ints(inputs[1 - first], input.lengths);
    std::vector<MSTensor> outputs;
    check(model.Predict(inputs, &outputs), "the network failed");
    take(outputs, output);
  }

 private:
  static void check(const mindspore::Status& status, const std::string& what) {
    if (!status.IsOk()) throw std::runtime_error(what + ": " + status.ToString());
  }

  std::shared_ptr<mindspore::Context> context() const {
    auto context = std::make_shared<mindspore::Context>();
    if (options_.target == "Ascend") {
      auto card = std::make_shared<mindspore::AscendDeviceInfo>();
      card->SetDeviceID(static_cast<std::uint32_t>(options_.device));
      if (!options_.precision.empty()) card->SetPrecisionMode(options_.precision);
      context->MutableDeviceInfo().push_back(card);
    } else {
      if (options_.device != 0)
        throw UsageError("device " + std::to_string(options_.device) +
                         " is not there: a CPU has device 0 alone; see --instances");
      if (options_.threads > 0) context->SetThreadNum(options_.threads);
      context->MutableDeviceInfo().push_back(std::make_shared<mindspore::CPUDeviceInfo>());
    }
    return context;
  }

  std::shared_ptr<mindspore::Model> build(const fs::path& file) const {
    auto model = std::make_shared<mindspore::Model>();
    const auto kind = file.extension() == ".ms" ? mindspore::kMindIR_Lite : mindspore::kMindIR;
    // One at a time: whether models may be built by several threads at once is not documented.
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    const mindspore::Status status = model->Build(file.string(), kind, context());
    if (!status.IsOk())
      throw UsageError("MindSpore Lite cannot run " + file.string() + " on " + options_.target +
                       ", device " + std::to_string(options_.device) + " (" + status.ToString() +
                       "); is the card there (npu-smi info), and the model made for it?");
    const std::vector<MSTensor> inputs = model->GetInputs();
    if (inputs.size() != 2)
      throw UsageError(file.string() + ": has " + std::to_string(inputs.size()) +
                       " inputs, expected features and lengths");
    const MSTensor& features = inputs[features_first(inputs) ? 0 : 1];
    const MSTensor& lengths = inputs[features_first(inputs) ? 1 : 0];
    if (features.DataType() != DataType::kNumberTypeFloat32 &&
        features.DataType() != DataType::kNumberTypeFloat16)
      throw UsageError(file.string() + ": the features are neither float32 nor float16");
    if (lengths.DataType() != DataType::kNumberTypeInt32)
      throw UsageError(file.string() + ": the lengths are not int32");
    return model;
  }

  // The converter may put the inputs in another order: the features are the one of three axes.
  static bool features_first(const std::vector<MSTensor>& inputs) {
    return inputs[0].Shape().size() == 3 || inputs[1].Shape().size() != 3;
  }

  static void fit(mindspore::Model& model, const Input& input) {
    const Shape features{input.batch, input.dimension, input.frames}, lengths{input.batch};
    const std::vector<MSTensor> inputs = model.GetInputs();
    const bool first = features_first(inputs);
    const std::vector<Shape> wanted =
        first ? std::vector<Shape>{features, lengths} : std::vector<Shape>{lengths, features};
    if (inputs[0].Shape() == wanted[0] && inputs[1].Shape() == wanted[1]) return;
    check(model.Resize(inputs, wanted), "the model does not take " + formatted(features));
  }

  // Log-probabilities (frame, utterance, label) and lengths (utterance).
  static void take(const std::vector<MSTensor>& outputs, Output& output) {
    if (outputs.size() != 2)
      throw std::runtime_error("the network has " + std::to_string(outputs.size()) +
                               " outputs, expected log-probabilities and lengths");
    const bool first = outputs[0].Shape().size() == 3;
    const MSTensor& log_probs = outputs[first ? 0 : 1];
    const MSTensor& lengths = outputs[first ? 1 : 0];
    const Shape shape = log_probs.Shape();
    if (shape.size() != 3 || lengths.Shape().size() != 1)
      throw std::runtime_error("the network's outputs have other axes than described");
    for (const std::int64_t size : shape)
      if (size < 1) throw std::runtime_error("the network gave an output of no size");
    output.frames = shape[0];
    output.batch = shape[1];
    output.labels = shape[2];
    output.log_probs =
        get_floats(log_probs, static_cast<std::size_t>(shape[0] * shape[1] * shape[2]));
    output.lengths = get_ints(lengths, static_cast<std::size_t>(lengths.Shape()[0]));
  }

  const EngineOptions options_;
  std::map<fs::path, std::shared_ptr<mindspore::Model>> models_;
  std::map<std::size_t, fs::path> files_;  // by bucket
};

}  // namespace

std::unique_ptr<Engine> make_lite(const EngineOptions& options) {
  return std::make_unique<LiteEngine>(options);
}

}  // namespace speech::internal
