// An engine for tests: no network, but a formula that a test can compute too.
//
// Output frame t of a row is the log-softmax of the first `labels` bins (repeated cyclically) of
// feature frame t * stride, so that it depends on that frame alone; frames past the length give 7.
// Environment: FAKE_DEVICES, how many cards there are (4); FAKE_MS, how long a batch takes;
// FAKE_FAIL, the number of a batch, from 1, and all later ones that fail; FAKE_BREAK, the frames
// above which a batch fails, and then every other one of the same engine; FAKE_KILL, the frames
// above which the process is killed, as for want of memory; FAKE_EXIT, the card whose driver ends
// the process while it loads; FAKE_STARTS, the input frames that it says were left out.

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include "engine.h"
#include "errors.h"

namespace speech::internal {
namespace {

int setting(const char* name, int standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : standard;
}

class FakeEngine : public Engine {
 public:
  explicit FakeEngine(const EngineOptions& options) : device_(options.device) {}

  void load(const Description& description, const std::vector<std::size_t>&) override {
    const int count = setting("FAKE_DEVICES", 4);
    if (device_ >= count)
      throw UsageError("device " + std::to_string(device_) + " is not there: this machine has " +
                       std::to_string(count));
    if (device_ == setting("FAKE_EXIT", -1)) std::_Exit(7);
    labels_ = description.labels;
    stride_ = std::max<std::int64_t>(1, description.frame_stride);
  }

  void run(std::size_t, const Input& input, Output& output) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(setting("FAKE_MS", 0)));
    static int count = 0;  // of all engines of this process
    if (++count >= setting("FAKE_FAIL", 1 << 30)) throw std::runtime_error("out of memory");
    if (input.frames > setting("FAKE_KILL", 1 << 30)) std::raise(SIGKILL);
    broken_ = broken_ || input.frames > setting("FAKE_BREAK", 1 << 30);
    if (broken_) throw std::runtime_error("could not create a primitive");
    output.frames = (input.frames + stride_ - 1) / stride_;
    output.batch = input.batch;
    output.labels = labels_;
    output.log_probs.assign(static_cast<std::size_t>(output.frames * output.batch * labels_), 7);
    output.lengths.clear();
    output.starts.clear();
    if (const int starts = setting("FAKE_STARTS", 0); starts > 0)
      output.starts.assign(input.lengths.size(), starts);
    for (std::int64_t row = 0; row < input.batch; ++row) {
      const std::int64_t length = input.lengths[static_cast<std::size_t>(row)];
      output.lengths.push_back(static_cast<std::int32_t>((length + stride_ - 1) / stride_));
      for (std::int64_t t = 0; t < output.lengths.back(); ++t)
        emit(input, row, t * stride_, output.log_probs.data() + (t * input.batch + row) * labels_);
    }
  }

 private:
  void emit(const Input& input, std::int64_t row, std::int64_t frame, float* result) const {
    double sum = 0;
    for (std::int64_t label = 0; label < labels_; ++label) {
      const std::int64_t bin = label % input.dimension;
      result[label] = input.features[static_cast<std::size_t>(
          (row * input.dimension + bin) * input.frames + frame)];
      sum += std::exp(static_cast<double>(result[label]));
    }
    for (std::int64_t label = 0; label < labels_; ++label)
      result[label] -= static_cast<float>(std::log(sum));
  }

  const int device_;
  bool broken_ = false;
  std::int64_t labels_ = 0, stride_ = 1;
};

}  // namespace

std::unique_ptr<Engine> make_fake(const EngineOptions& options) {
  return std::make_unique<FakeEngine>(options);
}

}  // namespace speech::internal
