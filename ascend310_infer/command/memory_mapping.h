// Memory mapped from the system, unmapped at the end of its life.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace speech::internal {

class MemoryMapping {
 public:
  // Maps zeroed memory; `shared`: with later children of this process. Throws std::bad_alloc.
  MemoryMapping(std::size_t bytes, bool shared)
      : bytes_(bytes),
        data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) throw std::bad_alloc();
  }
  MemoryMapping(const MemoryMapping&) = delete;
  MemoryMapping& operator=(const MemoryMapping&) = delete;
  ~MemoryMapping() { ::munmap(data_, bytes_); }

  char* data() const { return static_cast<char*>(data_); }

 private:
  const std::size_t bytes_;
  void* const data_;
};

}  // namespace speech::internal
