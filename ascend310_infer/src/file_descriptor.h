// An open file, closed at the end of its life.
#pragma once

#include <unistd.h>

namespace speech::internal {

class FileDescriptor {
 public:
  // value: as `open` returned it; negative for none.
  explicit FileDescriptor(int value) : value_(value) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }

  bool is_open() const { return value_ >= 0; }
  int get() const { return value_; }

  // Closes it now; false with errno if that fails. Some file systems report a full disk only here.
  bool close() {
    const int result = ::close(value_);
    value_ = -1;
    return result == 0;
  }

 private:
  int value_;
};

}  // namespace speech::internal
