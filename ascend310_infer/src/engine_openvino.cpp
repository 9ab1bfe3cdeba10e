// OpenVINO: ONNX files on a CPU.
//
// https://docs.openvino.ai/2026/api/c_cpp_api/group__ov__cpp__api.html. Engines of one process that
// run the same file share one compiled network and its weights; each has a request of its own.

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <openvino/core/version.hpp>
#include <openvino/frontend/manager.hpp>
#include <openvino/op/ops.hpp>
#include <openvino/openvino.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "engine.h"
#include "errors.h"

namespace speech::internal {
namespace {

// What an error of OpenVINO says, in one line: without the places in its source code, and of the
// report on a network that it cannot run the summary.
std::string reason(const std::exception& error) {
  std::string text = error.what(), result;
  if (const auto summary = text.find("Summary:"); summary != std::string::npos)
    text.erase(0, summary + std::strlen("Summary:"));
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    line.erase(0, std::min(line.find_first_not_of("- \t"), line.size()));
    const bool place = line.rfind("Exception from ", 0) == 0 || line.rfind("Check '", 0) == 0 ||
                       line.rfind("FrontEnd API failed", 0) == 0 ||
                       line.rfind("While validating", 0) == 0;
    if (!line.empty() && !place) result += (result.empty() ? "" : "; ") + line;
  }
  constexpr std::size_t kMost = 300;
  if (result.size() > kMost) result = result.substr(0, kMost) + "...";
  return result.empty() ? "no reason given" : result;
}

std::string version() {
  const std::string build = ov::get_openvino_version().buildNumber;  // "2026.4.1-22982-..."
  return "OpenVINO " + build.substr(0, build.find('-'));
}

std::shared_ptr<ov::Model> read(const fs::path& file) {
  // The front end by its name: a core would try all others on a file that is no ONNX, and theirs
  // write to standard error.
  static ov::frontend::FrontEndManager manager;
  const ov::frontend::FrontEnd::Ptr onnx = manager.load_by_framework("onnx");
  ov::frontend::InputModel::Ptr loaded;
  try {
    loaded = onnx->load(file.string());
  } catch (const std::exception& error) {
    throw UsageError(file.string() + ": not an ONNX file, or damaged or truncated (" +
                     reason(error) + "); export it anew, or copy it again");
  }
  try {
    return onnx->convert(loaded);
  } catch (const std::exception& error) {
    throw UsageError(file.string() + ": " + version() + " cannot run it: operators that it does " +
                     "not know, or not in this version of ONNX (" + reason(error) + ")");
  }
}

template <class Sequence>
bool is_backward(const std::shared_ptr<ov::Node>& node) {
  const auto sequence = ov::as_type_ptr<Sequence>(node);
  return sequence != nullptr &&
         sequence->get_direction() != ov::op::RecurrentSequenceDirection::FORWARD;
}

// Whether a network has recurrent layers that run backward, as earlier exports of DeepSpeech2.
// Where a row is padded, OpenVINO (2026.4) starts them at the padding, and the row comes out wrong.
bool runs_backward(const ov::Model& model) {
  const auto nodes = model.get_ops();
  return std::any_of(nodes.begin(), nodes.end(), [](const std::shared_ptr<ov::Node>& node) {
    return is_backward<ov::op::v5::LSTMSequence>(node) ||
           is_backward<ov::op::v5::GRUSequence>(node) || is_backward<ov::op::v5::RNNSequence>(node);
  });
}

struct SharedNetwork {
  ov::CompiledModel compiled;
  bool backward = false;
};

// Row number `row` of an input, alone and without padding.
Input alone(const Input& input, std::size_t row) {
  Input result;
  result.batch = 1;
  result.dimension = input.dimension;
  result.frames = input.lengths[row];
  result.lengths = {input.lengths[row]};
  const float* bins =
      input.features.data() + static_cast<std::int64_t>(row) * input.dimension * input.frames;
  for (std::int64_t bin = 0; bin < input.dimension; ++bin, bins += input.frames)
    result.features.insert(result.features.end(), bins, bins + result.frames);
  return result;
}

// Outputs of single rows as those of a batch, padded with 0.
Output together(const std::vector<Output>& rows) {
  Output result;
  result.batch = static_cast<std::int64_t>(rows.size());
  for (const Output& row : rows) {
    result.frames = std::max(result.frames, row.frames);
    result.labels = row.labels;
    result.lengths.insert(result.lengths.end(), row.lengths.begin(), row.lengths.end());
    result.starts.insert(result.starts.end(), row.starts.begin(), row.starts.end());
  }
  result.log_probs.resize(static_cast<std::size_t>(result.frames * result.batch * result.labels));
  for (std::int64_t number = 0; number < result.batch; ++number) {
    const Output& row = rows[static_cast<std::size_t>(number)];
    for (std::int64_t frame = 0; frame < row.frames; ++frame)
      std::copy_n(row.log_probs.begin() + frame * row.labels, row.labels,
                  result.log_probs.begin() + (frame * result.batch + number) * result.labels);
  }
  return result;
}

// The OpenVINO of this process, and the networks that its engines share.
class Library {
 public:
  static Library& get() {
    static Library library;
    return library;
  }

  // Reads a model. What was read last is kept until it is compiled.
  std::shared_ptr<ov::Model> model(const fs::path& file) {
    const std::lock_guard lock(mutex_);
    return model_locked(file);
  }

  // The network of a file for so many engines, with so many threads for each (0: OpenVINO's
  // choice). Compiled where no engine has it.
  std::shared_ptr<SharedNetwork> compiled(const fs::path& file, int instances, int threads) {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<SharedNetwork>& kept = compiled_[{file, modified_ns(file), instances, threads}];
    if (auto network = kept.lock()) return network;
    ov::AnyMap settings{ov::num_streams(instances), ov::hint::inference_precision(ov::element::f32),
                        ov::hint::enable_cpu_pinning(false)};  // other programs run, too
    if (threads > 0) settings.insert(ov::inference_num_threads(instances * threads));
    try {
      const auto model = model_locked(file);
      auto network = std::make_shared<SharedNetwork>();
      network->compiled = core_.compile_model(model, "CPU", settings);
      network->backward = runs_backward(*model);
      kept = network;
      read_.reset();
      return network;
    } catch (const UsageError&) {
      throw;
    } catch (const std::exception& error) {
      throw UsageError(file.string() + ": " + version() + " cannot run it (" + reason(error) + ")");
    }
  }

 private:
  std::shared_ptr<ov::Model> model_locked(const fs::path& file) {
    const auto key = std::make_pair(file, modified_ns(file));
    if (!read_ || read_->first != key) read_.emplace(key, read(file));
    return read_->second;
  }

  using Key = std::tuple<fs::path, std::int64_t, int, int>;
  std::mutex mutex_;
  ov::Core core_;
  std::optional<std::pair<std::pair<fs::path, std::int64_t>, std::shared_ptr<ov::Model>>> read_;
  std::map<Key, std::weak_ptr<SharedNetwork>> compiled_;
};

std::vector<float> floats(const ov::Tensor& tensor, const std::string& name) {
  if (tensor.get_element_type() != ov::element::f32)
    throw std::runtime_error("its output " + name + " is not float32");
  const auto* values = tensor.data<const float>();
  return {values, values + tensor.get_size()};
}

std::vector<std::int32_t> integers(const ov::Tensor& tensor, const std::string& name) {
  if (tensor.get_element_type() != ov::element::i32)
    throw std::runtime_error("its output " + name + " is not int32");
  const auto* values = tensor.data<const std::int32_t>();
  return {values, values + tensor.get_size()};
}

class OpenVinoEngine : public Engine {
 public:
  explicit OpenVinoEngine(const EngineOptions& options) : options_(options) {}

  void load(const Description& description, const std::vector<std::size_t>& buckets) override {
    if (options_.device != 0)
      throw UsageError("device " + std::to_string(options_.device) +
                       " is not there: a CPU has device 0 alone; see --instances");
    takes_samples_ = description.takes_samples;
    for (const std::size_t index : buckets) {
      const Bucket& bucket = description.buckets[index];
      Network& network = networks_[index];
      network.shared = Library::get().compiled(bucket.file, options_.instances, options_.threads);
      check(network.shared->compiled, bucket.file);
      if (network.shared->backward && (bucket.batch != 0 || bucket.frames != 0))
        throw UsageError(bucket.file.string() +
                         ": has a fixed shape and recurrent layers that run backward, which "
                         "OpenVINO starts at the padding; export it anew: it is written without");
      network.request = network.shared->compiled.create_infer_request();
    }
  }

  void run(std::size_t bucket, const Input& input, Output& output) override {
    Network& network = networks_.at(bucket);
    if (!network.shared->backward) return infer(network.request, input, output);
    std::vector<Output> rows(input.lengths.size());
    for (std::size_t row = 0; row < rows.size(); ++row)
      infer(network.request, alone(input, row), rows[row]);
    output = together(rows);
  }

 private:
  struct Network {
    std::shared_ptr<SharedNetwork> shared;
    ov::InferRequest request;
  };

  void infer(ov::InferRequest& request, const Input& input, Output& output) const {
    const auto size = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    ov::Shape shape{size(input.batch), size(input.dimension), size(input.frames)};
    if (takes_samples_) shape = {size(input.batch), size(input.frames)};
    // The tensors only lend OpenVINO the memory, which it does not write to.
    const ov::Tensor values(ov::element::f32, shape, const_cast<float*>(input.features.data()));
    const ov::Tensor lengths(ov::element::i32, {input.lengths.size()},
                             const_cast<std::int32_t*>(input.lengths.data()));
    try {
      request.set_tensor(first_, values);
      request.set_tensor("lengths", lengths);
      request.infer();
      take(request, output);
    } catch (const std::exception& error) {
      throw std::runtime_error(reason(error));
    }
  }

  static bool has(const std::vector<ov::Output<const ov::Node>>& ports, const std::string& name) {
    return std::any_of(ports.begin(), ports.end(),
                       [&name](const auto& port) { return port.get_names().count(name) > 0; });
  }

  // Throws UsageError where the network has other inputs or outputs than described.
  void check(const ov::CompiledModel& network, const fs::path& file) {
    first_ = takes_samples_ ? "samples" : "features";
    const auto inputs = network.inputs(), outputs = network.outputs();
    trims_ = has(outputs, "starts");
    if (inputs.size() == 2 && has(inputs, first_) && has(inputs, "lengths") &&
        has(outputs, "log_probs") && has(outputs, "output_lengths"))
      return;
    std::string names;
    for (const auto* ports : {&inputs, &outputs})
      for (const auto& port : *ports)
        names += (names.empty() ? "" : ", ") +
                 (port.get_names().empty() ? "a nameless one" : port.get_any_name());
    throw UsageError(file.string() + ": has the inputs and outputs " + names + ", expected " +
                     first_ + ", lengths, log_probs and output_lengths; is it of export.py?");
  }

  void take(ov::InferRequest& request, Output& output) const {
    const ov::Tensor log_probs = request.get_tensor("log_probs");
    const ov::Shape shape = log_probs.get_shape();
    if (shape.size() != 3)
      throw std::runtime_error("its output log_probs has " + std::to_string(shape.size()) +
                               " axes, expected 3");
    output.frames = static_cast<std::int64_t>(shape[0]);
    output.batch = static_cast<std::int64_t>(shape[1]);
    output.labels = static_cast<std::int64_t>(shape[2]);
    output.log_probs = floats(log_probs, "log_probs");
    output.lengths = integers(request.get_tensor("output_lengths"), "output_lengths");
    output.starts.clear();
    if (trims_) output.starts = integers(request.get_tensor("starts"), "starts");
  }

  const EngineOptions options_;
  bool takes_samples_ = false, trims_ = false;
  std::string first_;                        // name of the first input
  std::map<std::size_t, Network> networks_;  // by bucket
};

bool begins(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

class OpenVinoStream : public StreamNetwork {
 public:
  OpenVinoStream(const Description& description, int threads)
      : shared_(Library::get().compiled(description.buckets.front().file, 1, threads)),
        request_(shared_->compiled.create_infer_request()),
        dimension_(static_cast<std::size_t>(description.dimension)) {
    for (const auto& port : shared_->compiled.inputs()) {
      const std::string name = port.get_any_name();
      if (begins(name, kState)) states_.emplace(name, ov::Tensor(ov::element::f32, port.get_shape()));
    }
    reset();
  }

  void reset() override {
    for (auto& [name, state] : states_) {
      std::fill_n(state.data<float>(), state.get_size(), 0.0F);
      request_.set_tensor(name, state);
    }
  }

  StreamOutput run(const std::vector<float>& values, std::int64_t frames, std::int64_t position,
                   std::int64_t length) override {
    auto at = static_cast<std::int32_t>(position), whole = static_cast<std::int32_t>(length);
    StreamOutput output;
    try {
      // The tensors only lend OpenVINO the memory, which it does not write to.
      request_.set_tensor("features", ov::Tensor(ov::element::f32,
                                                 {1, dimension_, static_cast<std::size_t>(frames)},
                                                 const_cast<float*>(values.data())));
      request_.set_tensor("position", ov::Tensor(ov::element::i32, {1}, &at));
      request_.set_tensor("lengths", ov::Tensor(ov::element::i32, {1}, &whole));
      request_.infer();
      const ov::Tensor log_probs = request_.get_tensor("log_probs");
      output.frames = static_cast<std::int64_t>(log_probs.get_shape().at(0));
      output.log_probs = floats(log_probs, "log_probs");
      output.first = integers(request_.get_tensor("first"), "first").at(0);
      for (auto& [name, state] : states_) request_.get_tensor("next_" + name).copy_to(state);
    } catch (const std::exception& error) {
      throw std::runtime_error(reason(error));
    }
    return output;
  }

 private:
  static constexpr const char* kState = "state_";

  const std::shared_ptr<SharedNetwork> shared_;
  ov::InferRequest request_;
  const std::size_t dimension_;
  std::map<std::string, ov::Tensor> states_;  // what the network keeps of the recording
};

}  // namespace

std::unique_ptr<StreamNetwork> make_openvino_stream(const Description& description, int threads) {
  return std::make_unique<OpenVinoStream>(description, threads);
}

std::unique_ptr<Engine> make_openvino(const EngineOptions& options) {
  return std::make_unique<OpenVinoEngine>(options);
}

// The front end keeps ONNX's metadata_props as information beside the model.
std::string openvino_embedded(const fs::path& model) {
  const std::shared_ptr<ov::Model> read = Library::get().model(model);
  if (!read->has_rt_info("framework", "description")) return "";
  return read->get_rt_info<std::string>("framework", "description");
}

}  // namespace speech::internal
