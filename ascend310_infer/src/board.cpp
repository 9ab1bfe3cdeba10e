#include "board.h"

#include <sys/mman.h>

#include <new>

namespace infer {
namespace {

constexpr std::size_t kLine = 64;  // bytes, so that each array is aligned

std::size_t rounded(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

Board::Board(std::size_t workers, std::size_t utterances) : count_(workers) {
  const std::size_t first = rounded(sizeof(Shared));
  const std::size_t second = first + rounded(workers * sizeof(WorkerRecord));
  bytes_ = second + utterances * sizeof(UtteranceRecord);
  memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory_ == MAP_FAILED) throw std::bad_alloc();
  auto* bytes = static_cast<char*>(memory_);
  shared_ = new (bytes) Shared;
  workers_ = reinterpret_cast<WorkerRecord*>(bytes + first);
  utterances_ = reinterpret_cast<UtteranceRecord*>(bytes + second);
  for (std::size_t i = 0; i < workers; ++i) new (workers_ + i) WorkerRecord;
  for (std::size_t i = 0; i < utterances; ++i) new (utterances_ + i) UtteranceRecord;
}

Board::~Board() { ::munmap(memory_, bytes_); }

}  // namespace infer
