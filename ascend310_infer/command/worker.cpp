#include "worker.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <thread>

#include "batch.h"
#include "errors.h"
#include "queue.h"

namespace speech::internal {
namespace {

constexpr std::size_t kQueueCapacity = 2;  // batches that wait before the network, and after it
// Batches; then the run ends. The longest come first: several may be too long for the memory.
constexpr int kFailuresInARow = 10;

class Worker {
 public:
  Worker(std::size_t index, const EngineMaker& make, std::unique_ptr<Engine> engine,
         const Work& work, ResultWriter& writer, RunState& state)
      : index_(index),
        make_(make),
        engine_(std::move(engine)),
        work_(work),
        writer_(writer),
        state_(state),
        record_(state.worker(index)) {}

  void run() {
    std::thread reader([this] { guarded([this] { read(); }); });
    std::thread writer([this] { guarded([this] { write(); }); });
    guarded([this] { compute(); });
    loaded_.close();
    computed_.close();
    reader.join();
    writer.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // Runs one of the three threads' functions. If it throws, the queues close and the others end.
  template <class Part>
  void guarded(Part part) {
    try {
      part();
    } catch (...) {
      {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      loaded_.close();
      computed_.close();
    }
  }

  void fail(std::size_t utterance, const std::string& reason) {
    State waiting = State::kWaiting;  // report an utterance once, even if several of its parts fail
    if (state_.utterance(utterance).state.compare_exchange_strong(waiting, State::kFailed))
      report_failure(work_.utterances[utterance].name, reason);
  }

  void read() {
    Loader loader(work_.utterances, work_.source, work_.description.dimension);
    while (state_.stopped() == 0) {
      const std::size_t number = state_.take_job();
      if (number >= work_.plan.jobs.size()) break;
      for (const PlannedBatch& planned : work_.plan.jobs[number]) {
        Batch batch = loader.load(planned, [this](std::size_t utterance, const std::string& why) {
          fail(utterance, why);
        });
        if (!batch.rows.empty() && !loaded_.push(std::move(batch))) return;
      }
    }
    loaded_.close();
  }

  void compute() {
    int failures = 0;
    while (auto batch = loaded_.pop()) {
      if (state_.stopped() != 0) break;
      if (failures > 0) renew();
      mark(*batch, static_cast<int>(index_));
      const std::string reason = run_network(*batch);
      mark(*batch, -1);
      if (reason.empty()) {
        failures = 0;
        ++record_.batches;
        if (!computed_.push(std::move(*batch))) break;
        continue;
      }
      for (const Row& row : batch->rows) fail(row.utterance, reason);
      if (++failures == kFailuresInARow)
        throw UsageError("batch after batch fails, " + std::to_string(failures) +
                         " in a row: " + reason);
    }
  }

  // Returns why the network failed, or an empty string.
  std::string run_network(Batch& batch) {
    const std::string shape = std::to_string(batch.input.batch) + " x " +
                              std::to_string(batch.input.frames) + " " + work_.description.unit();
    const Clock::time_point start = Clock::now();
    try {
      engine_->run(batch.bucket, batch.input, batch.output);
      batch.network_s = seconds_since(start);
      record_.network_s += batch.network_s;
      check_output(batch.input, batch.output, work_.description.labels);
      return "";
    } catch (const std::bad_alloc&) {
      return "not enough memory for " + shape;
    } catch (const std::runtime_error& error) {
      return "the network failed on " + shape + " (" + error.what() + ")";
    }
  }

  // After a failure an engine may fail on every further batch.
  void renew() {
    engine_.reset();  // its memory first
    engine_ = make_();
    engine_->load(work_.description, work_.plan.buckets);
  }

  void mark(const Batch& batch, int worker) {
    for (const Row& row : batch.rows) state_.utterance(row.utterance).worker = worker;
  }

  void write() {
    Joiner joiner(work_.description.labels, work_.description.frame_stride);
    while (auto batch = computed_.pop())
      for (std::size_t row = 0; row < batch->rows.size(); ++row) {
        const std::size_t index = batch->rows[row].utterance;
        UtteranceRecord& record = state_.utterance(index);
        try {
          Emission whole = emission(batch->output, row);
          if (row == 0 || batch->rows[row - 1].utterance != index)  // parts may share a batch
            record.network_ms += static_cast<float>(1e3 * batch->network_s);
          if (!joiner.add(batch->rows[row], whole)) continue;
          writer_.put(index, work_.utterances[index], whole);
          record.total_ms = static_cast<float>(1e3 * seconds_since(batch->started));
          record.state = State::kDone;
        } catch (const InputError& error) {
          fail(index, error.what());
        } catch (const OutputError& error) {
          fail(index, error.what());
          state_.stop(RunState::kUnwritable);
          loaded_.close();
          computed_.close();
          return;
        }
      }
  }

  const std::size_t index_;
  const EngineMaker& make_;
  std::unique_ptr<Engine> engine_;
  const Work& work_;
  ResultWriter& writer_;
  RunState& state_;
  WorkerRecord& record_;
  Queue<Batch> loaded_{kQueueCapacity}, computed_{kQueueCapacity};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

void run_worker(std::size_t index, const EngineMaker& make, const Work& work, ResultWriter& writer,
                RunState& state) {
  WorkerRecord& record = state.worker(index);
  Clock::time_point start = Clock::now();
  std::unique_ptr<Engine> engine = make();
  engine->load(work.description, work.plan.buckets);
  record.load_s += seconds_since(start);
  state.arrive();
  while (!state.all_arrived() && state.stopped() == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  start = Clock::now();
  Worker worker(index, make, std::move(engine), work, writer, state);
  worker.run();
  record.wall_s +=
      seconds_since(start);  // before the engine ends, which may take as long as a batch
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  record.peak_kib = std::max(record.peak_kib, static_cast<std::uint64_t>(usage.ru_maxrss));
}

void report_failure(const std::string& name, const std::string& reason) {
  std::string line = "failed: " + name + ": " + reason;
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  line += '\n';
  // One write for the whole line: several workers share standard error.
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace speech::internal
