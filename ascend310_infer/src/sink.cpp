#include "sink.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "errors.h"
#include "json.h"

namespace infer {
namespace {

struct Header {
  std::uint64_t index = 0, bytes = 0;
};

bool read_at(int file, off_t at, void* data, std::size_t bytes) {
  return ::pread(file, data, bytes, at) == static_cast<ssize_t>(bytes);
}

std::string shown(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string word_json(const Word& word, const Utterance& utterance, double frame_seconds) {
  const auto time = [&](std::int64_t frame) {
    return shown(utterance.start_s + frame_seconds * static_cast<double>(frame), 3);
  };
  return "{\"word\": " + json_text(word.text) + ", \"start\": " + time(word.begin) +
         ", \"end\": " + time(word.end) + ", \"confidence\": " + shown(word.confidence, 4) + "}";
}

// null where there is no letter.
std::string confidence_json(const std::vector<Letter>& letters) {
  double sum = 0;
  for (const Letter& letter : letters) sum += letter.probability;
  return letters.empty() ? "null" : shown(sum / static_cast<double>(letters.size()), 4);
}

}  // namespace

void ResultFiles::put(std::size_t, const Utterance& utterance, const Emission& emission) {
  const auto frames = static_cast<std::int32_t>(emission.frames);
  write_atomically(result_file(folder_, utterance.name, 0), emission.values.data(),
                   emission.values.size() * sizeof(float));
  write_atomically(result_file(folder_, utterance.name, 1), &frames, sizeof frames);
}

std::string text_line(const Utterance& utterance, const Emission& emission,
                      const Alphabet& alphabet, const TextStyle& style) {
  const std::vector<Letter> letters = best_path(emission, alphabet);
  const std::string text = text_of(letters, alphabet);
  if (!style.json) return (style.alone ? "" : utterance.name + "\t") + text + "\n";
  std::string line = "{\"path\": " + json_text(utterance.name) + ", \"text\": " + json_text(text) +
                     ", \"duration\": " + shown(utterance.duration_s, 3) +
                     ", \"confidence\": " + confidence_json(letters) + ", \"words\": [";
  const char* between = "";
  for (const Word& word : words(letters, alphabet)) {
    line += between + word_json(word, utterance, style.frame_seconds);
    between = ", ";
  }
  return line + "]}\n";
}

Texts::Texts(const Alphabet& alphabet, const TextStyle& style)
    : alphabet_(alphabet), style_(style), file_(::memfd_create("texts", MFD_CLOEXEC)) {
  if (file_ < 0) throw OutputError(std::string("no memory for texts: ") + std::strerror(errno));
}

Texts::~Texts() { ::close(file_); }

void Texts::put(std::size_t index, const Utterance& utterance, const Emission& emission) {
  const std::string line = text_line(utterance, emission, alphabet_, style_);
  const Header header{index, line.size()};
  std::string record(reinterpret_cast<const char*>(&header), sizeof header);
  record += line;
  if (::write(file_, record.data(), record.size()) != static_cast<ssize_t>(record.size()))
    throw OutputError(std::string("no memory for texts: ") + std::strerror(errno));
}

void Texts::collect(std::vector<std::string>& lines) const {
  Header header;
  // A process that died may have left a part of a record.
  for (off_t at = 0; read_at(file_, at, &header, sizeof header);) {
    at += static_cast<off_t>(sizeof header);
    std::string line(header.bytes, '\0');
    if (!read_at(file_, at, line.data(), line.size())) return;
    at += static_cast<off_t>(line.size());
    lines.at(header.index) = std::move(line);
  }
}

}  // namespace infer
