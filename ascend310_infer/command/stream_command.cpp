#include "stream_command.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"
#include "errors.h"
#include "json.h"
#include "stream.h"

namespace speech::internal {
namespace {

constexpr std::size_t kRead = 1 << 15;  // bytes at most that are taken at once

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

std::string final_line(const Transcript& transcript, bool json) {
  if (!json) return "final\t" + transcript.text;
  std::string line = "{\"type\": \"final\", \"text\": " + json_text(transcript.text) +
                     ", \"confidence\": " + number(transcript.confidence) + ", \"words\": [";
  std::string between;
  for (const Word& word : transcript.words) {
    line += between + "{\"word\": " + json_text(word.text) + ", \"start\": " + number(word.start) +
            ", \"end\": " + number(word.end) +
            ", \"confidence\": " + number(word.confidence) + "}";
    between = ", ";
  }
  return line + "]}";
}

std::string partial_line(const std::string& text, bool json) {
  return json ? "{\"type\": \"partial\", \"text\": " + json_text(text) + "}" : "partial\t" + text;
}

void print(const std::string& line) {
  if (!(std::cout << line << "\n" << std::flush))
    throw OutputError("standard output: texts cannot be written");
}

// Returns what standard input has next, in bytes; empty at its end.
std::string next() {
  std::string content(kRead, '\0');
  while (true) {
    const ssize_t count = ::read(STDIN_FILENO, content.data(), content.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw UsageError("standard input cannot be read");
    content.resize(static_cast<std::size_t>(count));
    return content;
  }
}

// Takes whole samples of 16 bits, little endian, from the beginning of `bytes`.
std::vector<float> samples_of(std::string& bytes) {
  std::vector<float> samples;
  for (std::size_t at = 0; at + 1 < bytes.size(); at += 2) {
    const auto low = static_cast<unsigned char>(bytes[at]);
    const auto high = static_cast<signed char>(bytes[at + 1]);
    samples.push_back(static_cast<float>(high * 256 + low) / 32768.0F);
  }
  bytes.erase(0, 2 * samples.size());
  return samples;
}

}  // namespace

int recognize_stream(const Options& options) {
  const Description description = describe_stream(options.model);
  for (const std::string& note : check_models(description, "CPU"))
    std::cerr << "note: " << note << "\n";
  StreamingOptions chosen;
  chosen.threads = options.threads;
  chosen.pause = options.pause;
  chosen.chunk = options.chunk;
  TextStream stream(description, make_stream_network(description, options.threads), chosen);
  std::string bytes, shown;
  bool begun = false;
  while (true) {
    const std::string content = next();
    if (content.empty()) break;
    bytes += content;
    if (!begun && bytes.size() < 4) continue;
    if (!begun && bytes.compare(0, 4, "RIFF") == 0)
      throw UsageError("standard input: holds a WAV file, expected raw samples of 16 bits at " +
                       std::to_string(stream.sample_rate()) + " Hz (ffmpeg -i FILE -f s16le -)");
    begun = true;
    for (const Transcript& transcript : stream.accept(samples_of(bytes))) {
      print(final_line(transcript, options.json));
      shown.clear();
    }
    std::string text = stream.result();
    if (text == shown) continue;
    print(partial_line(text, options.json));
    shown = std::move(text);
  }
  for (const Transcript& transcript : stream.finish())
    print(final_line(transcript, options.json));
  if (bytes.empty()) return 0;
  std::cerr << "error: standard input ended within a sample\n";
  return 1;
}

}  // namespace speech::internal
