// What the workers of a run share, which are processes or threads: which job is next, whether to
// stop, and what was done.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "memory_mapping.h"

namespace speech::internal {

enum class State : std::uint8_t { kWaiting, kDone, kFailed };

struct UtteranceRecord {
  std::atomic<State> state{State::kWaiting};
  std::atomic<int> worker{-1};  // the worker whose network works on it; -1: none
  float network_ms = 0;  // of its batches
  float total_ms = 0;    // from reading its features to writing its result
};

struct WorkerRecord {
  double load_s = 0;     // load and compile the model
  double wall_s = 0;     // from the loaded model to the end
  double network_s = 0;  // part of wall_s inside the engine
  std::uint64_t batches = 0;
  std::uint64_t peak_kib = 0;  // peak memory
};

// Every field that two workers write is atomic; a record has one writer.
class RunState {
 public:
  // For at most so many workers; `processes`: they are children of this process, with which it
  // shares its memory. Throws std::bad_alloc.
  RunState(std::size_t workers, std::size_t utterances, bool processes);
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  WorkerRecord& worker(std::size_t index) { return workers_[index]; }
  UtteranceRecord& utterance(std::size_t index) { return utterances_[index]; }

  // Begins a plan: its jobs are taken from the first one on, by so many workers.
  void begin(std::size_t workers) {
    count_ = workers;
    shared_->next = 0;
    shared_->arrived = 0;
  }

  // Returns the number of the next job, which no other worker gets.
  std::size_t take_job() { return shared_->next.fetch_add(1); }

  // Marks a worker as ready. All wait for each other, so that a missing card is reported before
  // anything is recognized. The parent calls it for a process that died.
  void arrive() { ++shared_->arrived; }
  bool all_arrived() const { return shared_->arrived >= count_; }

  // Reasons to stop besides signal numbers; the first reason is kept.
  static constexpr int kRefused = -1;     // the model or device cannot be used: exit code 2
  static constexpr int kUnwritable = -2;  // results cannot be written: exit code 1
  // Returns true if this reason is the first. Safe in a signal handler.
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

  std::size_t count_;  // of workers
  const MemoryMapping memory_;
  Shared* shared_;
  WorkerRecord* workers_;
  UtteranceRecord* utterances_;
};

}  // namespace speech::internal
