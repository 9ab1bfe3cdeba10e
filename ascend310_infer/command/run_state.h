// What the processes of a run share: which job is next, whether to stop, and what was done.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "memory_mapping.h"

namespace speech::internal {

enum class State : std::uint8_t { kWaiting, kDone, kFailed };

struct UtteranceRecord {
  std::atomic<State> state{State::kWaiting};
  float network_ms = 0;  // of the batches that it went through
  float total_ms = 0;    // from the start of reading to the result's last name
};

struct WorkerRecord {
  double load_s = 0;     // model and compilation
  double wall_s = 0;     // from then to the end
  double network_s = 0;  // of it, inside the engine
  std::uint64_t batches = 0;
  std::uint64_t peak_kib = 0;  // memory
};

// Every field that two processes write is atomic; a record has one writer.
class RunState {
 public:
  // In memory that children of this process share. Throws std::bad_alloc.
  RunState(std::size_t workers, std::size_t utterances);
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  WorkerRecord& worker(std::size_t index) { return workers_[index]; }
  UtteranceRecord& utterance(std::size_t index) { return utterances_[index]; }

  // The number of a job that nobody else has, ever greater.
  std::size_t take_job() { return shared_->next.fetch_add(1); }

  // Nobody starts before all are ready, so that a card that is not there is known before anything
  // is done. Also called for a process that died.
  void arrive() { ++shared_->arrived; }
  bool all_arrived() const { return shared_->arrived >= count_; }

  // The first reason stays: the number of a signal, or one of those below.
  static constexpr int kRefused = -1;     // a model, a device: exit code 2
  static constexpr int kUnwritable = -2;  // the folder of results: exit code 1
  // True where this was the first. May be called in a signal handler.
  bool stop(int reason) {
    int none = 0;
    return shared_->stop.compare_exchange_strong(none, reason);
  }
  int stopped() const { return shared_->stop; }

 private:
  struct Shared {
    std::atomic<std::size_t> next{0};
    std::atomic<std::size_t> arrived{0};
    std::atomic<int> stop{0};
  };
  static_assert(std::atomic<std::size_t>::is_always_lock_free &&
                    std::atomic<int>::is_always_lock_free,
                "locks are not shared between processes");

  std::size_t count_;  // of processes
  const MemoryMapping memory_;
  Shared* shared_;
  WorkerRecord* workers_;
  UtteranceRecord* utterances_;
};

}  // namespace speech::internal
