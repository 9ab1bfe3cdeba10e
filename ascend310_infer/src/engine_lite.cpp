// MindSpore Lite's C++ API (2.x, cloud-side inference), for Ascend 310 and 310P and for the CPU.
//
// https://www.mindspore.cn/lite/api/en/master/index.html. Buckets that share a file share a model
// and its weights, and are told apart by Resize: so does a model that converter_lite made with
// `dynamic_dims` of several lengths.
//
// Compiled and started on a CPU against MindSpore Lite 2.0.0's wheel; on cards it has not run.

#include <dlfcn.h>

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

constexpr const char* kPrecision = "preferred_fp32";

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

// The highest version of MindIR that this MindSpore Lite reads; 0 where it does not tell. Its loader
// compares with the last value of the enumeration Version in mind_ir.proto, for which the library
// has this function.
std::int64_t highest_version() {
#ifdef MIND_IR_VERSIONS  // of the stand-in
  return MIND_IR_VERSIONS;
#else
  using Valid = bool (*)(int);
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): dlsym has no other way
  const auto valid =
      reinterpret_cast<Valid>(::dlsym(RTLD_DEFAULT, "_ZN7mind_ir15Version_IsValidEi"));
  if (valid == nullptr) return 0;
  constexpr int kMany = 100;
  int last = 0;
  for (int version = 1; version < kMany; ++version)
    if (valid(version)) last = version;
  return last;
#endif
}

// "MindSpore Lite", with its release where it tells one: 2.0.0 does not.
std::string lite_name() {
  const std::string release = mindspore::Version();
  return release.empty() ? "MindSpore Lite" : release;
}

// What a status says: its message, and the description of the error where that is another.
std::string text_of(const mindspore::Status& status) {
  std::string text = status.ToString();
  const std::string further = status.GetErrDescription();
  if (!further.empty() && text.find(further) == std::string::npos)
    text += (text.empty() ? "" : "; ") + further;
  while (!text.empty() && std::strchr(" \n", text.back()) != nullptr) text.pop_back();
  for (char& sign : text)
    if (sign == '\n') sign = ' ';
  return text.empty() ? "no reason given" : text;
}

class LiteEngine : public Engine {
 public:
  explicit LiteEngine(const EngineOptions& options) : options_(options) {}

  void load(const Description& description, const std::vector<std::size_t>& buckets) override {
    for (const std::size_t index : buckets) {
      const Bucket& bucket = description.buckets[index];
      check_version(bucket);
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
    if (!status.IsOk()) throw std::runtime_error(what + ": " + text_of(status));
  }

  // Lite refuses a file of a later version, and says so in its log alone.
  static void check_version(const Bucket& bucket) {
    const std::int64_t version = bucket.graph && !bucket.converted ? bucket.graph->version : 0;
    const std::int64_t most = highest_version();
    std::error_code none;
    const auto bytes = fs::file_size(bucket.file, none);
    if (most == 0 || version <= most || static_cast<std::uintmax_t>(bucket.graph->bytes) != bytes)
      return;  // where the size is another, it was converted
    throw UsageError(bucket.file.string() + ": MindIR version " + std::to_string(version) +
                     ", and this " + lite_name() + " reads up to " + std::to_string(most) +
                     ": take a newer MindSpore Lite, or convert the ONNX file of the same "
                     "checkpoint with its converter_lite (docs/inference.md)");
  }

  std::shared_ptr<mindspore::Context> context() const {
    auto context = std::make_shared<mindspore::Context>();
    if (options_.target == "Ascend") {
      auto card = std::make_shared<mindspore::AscendDeviceInfo>();
      card->SetDeviceID(static_cast<std::uint32_t>(options_.device));
      // Lite's own default is enforce_fp16, with which texts differ from those of eval.py.
      card->SetPrecisionMode(options_.precision.empty() ? kPrecision : options_.precision);
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
      throw UsageError(lite_name() + " cannot run " + file.string() + " on " +
                       options_.target + ", device " + std::to_string(options_.device) + ": " +
                       text_of(status) + remedy());
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

  // What can be seen of the card's software; the rest is in Lite's own log.
  std::string remedy() const {
    std::string text = "; its log above says more";
    if (options_.target != "Ascend") return text;
    if (!fs::exists("/dev/davinci_manager"))
      text += "; there is no Ascend driver (/dev/davinci_manager)";
    if (::dlopen("libascendcl.so", RTLD_LAZY) == nullptr)
      text += "; CANN's libraries are not found (libascendcl.so): source its set_env.sh";
    return text;
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
