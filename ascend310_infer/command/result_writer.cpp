#include "result_writer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "errors.h"
#include "json.h"
#include "utterance_list.h"

namespace speech::internal {
namespace {

struct Header {
  std::uint64_t index = 0, bytes = 0;
};

bool read_at(int file, off_t at, void* data, std::size_t bytes) {
  return ::pread(file, data, bytes, at) == static_cast<ssize_t>(bytes);
}

std::string formatted(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

// `start_s`: of the first output frame.
std::string word_json(const DecodedWord& word, double start_s, double frame_seconds) {
  const auto time = [&](std::int64_t frame) {
    return formatted(start_s + frame_seconds * static_cast<double>(frame), 3);
  };
  return "{\"word\": " + json_text(word.text) + ", \"start\": " + time(word.begin) +
         ", \"end\": " + time(word.end) + ", \"confidence\": " + formatted(word.confidence, 4) +
         "}";
}

// null where there is no token.
std::string confidence_json(const std::vector<Token>& tokens) {
  return tokens.empty() ? "null" : formatted(mean_probability(tokens), 4);
}

}  // namespace

void LogProbFiles::put(std::size_t, const Utterance& utterance, const Emission& emission) {
  const auto frames = static_cast<std::int32_t>(emission.frames);
  write_atomically(result_file(folder_, utterance.name, 0), emission.values.data(),
                   emission.values.size() * sizeof(float));
  write_atomically(result_file(folder_, utterance.name, 1), &frames, sizeof frames);
}

std::string text_line(const Utterance& utterance, const Emission& emission,
                      const Vocabulary& vocabulary, const TextStyle& style) {
  const std::vector<Token> tokens = best_path(emission, vocabulary);
  const std::string text = text_of(tokens, vocabulary);
  if (!style.json) return (style.alone ? "" : utterance.name + "\t") + text + "\n";
  std::string line = "{\"path\": " + json_text(utterance.name) + ", \"text\": " + json_text(text) +
                     ", \"duration\": " + formatted(utterance.duration_s, 3) +
                     ", \"confidence\": " + confidence_json(tokens) + ", \"words\": [";
  const double start_s =
      utterance.start_s + style.input_seconds * static_cast<double>(emission.start);
  const char* between = "";
  for (const DecodedWord& word : words(tokens, vocabulary)) {
    line += between + word_json(word, start_s, style.frame_seconds);
    between = ", ";
  }
  return line + "]}\n";
}

TranscriptBuffer::TranscriptBuffer(const Vocabulary& vocabulary, const TextStyle& style)
    : vocabulary_(vocabulary), style_(style), file_(::memfd_create("texts", MFD_CLOEXEC)) {
  if (!file_.is_open())
    throw OutputError(std::string("no memory for texts: ") + std::strerror(errno));
}

void TranscriptBuffer::put(std::size_t index, const Utterance& utterance,
                           const Emission& emission) {
  const std::string line = text_line(utterance, emission, vocabulary_, style_);
  const Header header{index, line.size()};
  std::string record(reinterpret_cast<const char*>(&header), sizeof header);
  record += line;
  if (::write(file_.get(), record.data(), record.size()) != static_cast<ssize_t>(record.size()))
    throw OutputError(std::string("no memory for texts: ") + std::strerror(errno));
}

void TranscriptBuffer::collect(std::vector<std::string>& lines) const {
  Header header;
  // A process that died may have left a part of a record.
  for (off_t at = 0; read_at(file_.get(), at, &header, sizeof header);) {
    at += static_cast<off_t>(sizeof header);
    std::string line(header.bytes, '\0');
    if (!read_at(file_.get(), at, line.data(), line.size())) return;
    at += static_cast<off_t>(line.size());
    lines.at(header.index) = std::move(line);
  }
}

}  // namespace speech::internal
