#include "mindir.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "errors.h"

namespace infer {
namespace {

// Kinds of field on the wire: https://protobuf.dev/programming-guides/encoding/
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  std::uint64_t number = 0;
  int wire = 0;
  std::uint64_t value = 0;  // of a varint
  std::string_view bytes;   // of a string or an inner message
};

class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  // Goes to the next field; false at the end. Throws std::invalid_argument for broken bytes.
  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field = Field{key >> 3, static_cast<int>(key & 7), 0, {}};
    if (field.number == 0) throw std::invalid_argument("a field without a number");
    switch (field.wire) {
      case kVarint:
        field.value = varint();
        break;
      case kFixed64:
        take(8);
        break;
      case kBytes:
        field.bytes = take(varint());
        break;
      case kFixed32:
        take(4);
        break;
      default:
        throw std::invalid_argument("an unknown kind of field");
    }
    return true;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    throw std::invalid_argument("a number without an end");
  }

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) throw std::invalid_argument("the file ends in the middle");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
};

void read_dimensions(const Field& field, std::vector<std::int64_t>& shape) {
  if (field.wire == kVarint) {
    shape.push_back(static_cast<std::int64_t>(field.value));
    return;
  }
  // Packed: varints one after another, which as fields are read by a key of their own; so by hand.
  std::uint64_t value = 0;
  int shift = 0;
  for (const char c : field.bytes) {
    if (shift > 63) throw std::invalid_argument("a number without an end");
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(c) & 0x7F) << shift;
    shift += 7;
    if ((c & 0x80) == 0) {
      shape.push_back(static_cast<std::int64_t>(value));
      value = 0;
      shift = 0;
    }
  }
}

MindirInput read_input(std::string_view bytes) {
  MindirInput input;
  Message value_info(bytes);
  for (Field field; value_info.next(field);) {
    if (field.number == 1 && field.wire == kBytes) input.name = field.bytes;
    if (field.number != 2 || field.wire != kBytes) continue;
    Message tensor(field.bytes);
    for (Field inner; tensor.next(inner);) {
      if (inner.number == 1) read_dimensions(inner, input.shape);
      if (inner.number == 2 && inner.wire == kVarint)
        input.type = static_cast<std::int64_t>(inner.value);
    }
  }
  return input;
}

// The fourth field of a node, and the second of a primitive, names its operator. A node may refer
// to a primitive ("REF::LSTM:290"), which is then in the list of primitives.
void read_operator(std::string_view bytes, std::uint64_t number, Mindir& result) {
  Message message(bytes);
  for (Field field; message.next(field);)
    if (field.number == number && field.wire == kBytes && field.bytes.substr(0, 5) != "REF::")
      result.operators.emplace(field.bytes);
}

void read_graph(std::string_view bytes, bool main, Mindir& result) {
  Message graph(bytes);
  for (Field field; graph.next(field);) {
    if (field.wire != kBytes) continue;
    if (field.number == 1) read_operator(field.bytes, 4, result);
    if (field.number == 5 && main) result.inputs.push_back(read_input(field.bytes));
  }
}

}  // namespace

Mindir parse_mindir(std::string_view bytes) {
  Mindir result;
  bool graph = false;
  Message model(bytes);
  for (Field field; model.next(field);) {
    if (field.wire != kBytes) continue;
    switch (field.number) {
      case 3:
        result.producer_version = field.bytes;
        break;
      case 7:
        graph = true;
        read_graph(field.bytes, true, result);
        break;
      case 8:
        read_graph(field.bytes, false, result);
        break;
      case 12:
        read_operator(field.bytes, 2, result);
        break;
      default:
        break;
    }
  }
  if (!graph || result.operators.empty()) throw std::invalid_argument("holds no graph");
  return result;
}

Mindir read_mindir(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (file < 0 || ::fstat(file, &status) != 0) {
    const std::string reason = std::strerror(errno);
    if (file >= 0) ::close(file);
    throw UsageError(path.string() + ": the model cannot be read (" + reason + ")");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  // Mapped, so that of a large file only the pages are read that are looked at.
  void* data = size > 0 && S_ISREG(status.st_mode)
                   ? ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0)
                   : MAP_FAILED;
  ::close(file);
  if (data == MAP_FAILED)
    throw UsageError(path.string() + ": not a MindIR file (empty, or no file)");
  try {
    Mindir result = parse_mindir({static_cast<const char*>(data), size});
    ::munmap(data, size);
    return result;
  } catch (const std::invalid_argument& error) {
    ::munmap(data, size);
    throw UsageError(path.string() + ": not a MindIR file (" + error.what() + ")");
  }
}

}  // namespace infer
