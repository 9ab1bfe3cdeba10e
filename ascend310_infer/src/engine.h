// The one interface between the runner and what computes the network.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "description.h"
#include "stream_network.h"

namespace speech::internal {

// Of a model that takes samples, `dimension` is 1, and a frame is a sample.
struct Input {
  std::int64_t batch = 0, dimension = 0, frames = 0;
  std::vector<float> features;        // (batch, dimension, frames), padded with 0
  std::vector<std::int32_t> lengths;  // (batch), frames that count
};

struct Output {
  std::int64_t frames = 0, batch = 0, labels = 0;
  std::vector<float> log_probs;       // (frames, batch, labels)
  std::vector<std::int32_t> lengths;  // (batch), frames that count
  std::vector<std::int32_t> starts{};  // (batch), input frames left out before the first; or empty
};

struct EngineOptions {
  std::string target;     // "CPU" or "Ascend"
  int device = 0;         // number of the card
  int threads = 0;        // 0: the engine's own choice
  std::string precision;  // "": the engine's own choice
  std::string python;     // of the engine `wheel`; "": that of the build
  int instances = 1;      // engines of this process that share the CPU
};

// Returns zeros in the shape of a bucket, for a first run; 1 x 64 frames where the shape is open.
Input zero_input(const Bucket& bucket, std::int64_t dimension);

// Used by one thread at a time. Several engines may be used by several threads at once.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  // Loads and compiles buckets (indices in description.buckets). May be called again for others.
  // Throws UsageError.
  virtual void load(const Description& description, const std::vector<std::size_t>& buckets) = 0;

  // Runs the network on an input of the shape of `bucket`. Throws std::runtime_error.
  virtual void run(std::size_t bucket, const Input& input, Output& output) = 0;
};

struct EngineKind {
  std::string name;
  std::string what;
  std::vector<std::string> targets;
  std::vector<std::string> files;  // endings of the models that it runs; none: all
  std::unique_ptr<Engine> (*make)(const EngineOptions&);
  // Whether several of them may run in threads of one process; the others need one each.
  bool in_threads = false;
  // Returns the text of the description inside a model, or "" where there is none; null where the
  // engine cannot tell. Throws UsageError for a file that is no model.
  std::string (*embedded)(const fs::path& model) = nullptr;
  // Makes a network that takes a recording piece by piece; null where the engine has none.
  std::unique_ptr<StreamNetwork> (*make_stream)(const Description&, int threads) = nullptr;
};

// The engines of this build.
const std::vector<EngineKind>& engine_kinds();

// Reads the description of a model that takes whole recordings: the one inside an ONNX file, or
// else the file beside it; see `read_description`. Throws UsageError.
Description describe_model(const fs::path& model);

// Reads the description of a model that takes a recording piece by piece. Throws UsageError.
Description describe_stream(const fs::path& model);

// Returns the engine of that name, or if it is empty the first one that runs such a model file
// on the target. Throws UsageError, which names the engines of this build.
const EngineKind& choose_engine(const std::string& name, const std::string& target,
                                const fs::path& model);

}  // namespace speech::internal
