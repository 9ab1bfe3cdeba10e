#include "run_state.h"

#include <new>

namespace speech::internal {
namespace {

constexpr std::size_t kLine = 64;  // bytes; every array starts at a multiple of it

std::size_t aligned(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

RunState::RunState(std::size_t workers, std::size_t utterances, bool processes)
    : count_(workers),
      memory_(aligned(sizeof(Shared)) + aligned(workers * sizeof(WorkerRecord)) +
                  utterances * sizeof(UtteranceRecord),
              processes) {
  const std::size_t first = aligned(sizeof(Shared));
  const std::size_t second = first + aligned(workers * sizeof(WorkerRecord));
  char* bytes = memory_.data();
  shared_ = new (bytes) Shared;
  workers_ = reinterpret_cast<WorkerRecord*>(bytes + first);
  utterances_ = reinterpret_cast<UtteranceRecord*>(bytes + second);
  for (std::size_t i = 0; i < workers; ++i) new (workers_ + i) WorkerRecord;
  for (std::size_t i = 0; i < utterances; ++i) new (utterances_ + i) UtteranceRecord;
}

}  // namespace speech::internal
