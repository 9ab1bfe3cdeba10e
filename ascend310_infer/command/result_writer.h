// Where the results of utterances go: log-probabilities into files, or texts to standard output.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "decoding.h"
#include "file_descriptor.h"
#include "files.h"
#include "join.h"
#include "utterance.h"

namespace speech::internal {

// Used by one thread of one process.
class ResultWriter {
 public:
  ResultWriter() = default;
  ResultWriter(const ResultWriter&) = delete;
  ResultWriter& operator=(const ResultWriter&) = delete;
  virtual ~ResultWriter() = default;

  // Writes the result of utterance number `index` of the list. Throws InputError, OutputError.
  virtual void put(std::size_t index, const Utterance& utterance, const Emission& emission) = 0;
};

// Writes log-probabilities to NAME_0.bin and their number of frames to NAME_1.bin.
class LogProbFiles : public ResultWriter {
 public:
  explicit LogProbFiles(fs::path folder) : folder_(std::move(folder)) {}
  void put(std::size_t index, const Utterance& utterance, const Emission& emission) override;

 private:
  const fs::path folder_;
};

// How transcripts are printed, one line each.
struct TextStyle {
  bool json = false;
  bool alone = false;        // print a single text without its path
  double frame_seconds = 0;  // from one output frame to the next
  double input_seconds = 0;  // from one input frame to the next
};

std::string text_line(const Utterance& utterance, const Emission& emission,
                      const Vocabulary& vocabulary, const TextStyle& style);

// Collects the lines of a thread of this process.
class TranscriptLines : public ResultWriter {
 public:
  // `lines`: one for each utterance; each is written by one thread.
  TranscriptLines(const Vocabulary& vocabulary, const TextStyle& style,
                  std::vector<std::string>& lines)
      : vocabulary_(vocabulary), style_(style), lines_(lines) {}
  void put(std::size_t index, const Utterance& utterance, const Emission& emission) override {
    lines_.at(index) = text_line(utterance, emission, vocabulary_, style_);
  }

 private:
  const Vocabulary& vocabulary_;
  const TextStyle style_;
  std::vector<std::string>& lines_;
};

// Collects the lines of one process in memory that its parent process can read.
class TranscriptBuffer : public ResultWriter {
 public:
  // Throws OutputError.
  TranscriptBuffer(const Vocabulary& vocabulary, const TextStyle& style);
  void put(std::size_t index, const Utterance& utterance, const Emission& emission) override;

  // Puts every line at the index of its utterance.
  void collect(std::vector<std::string>& lines) const;

 private:
  const Vocabulary vocabulary_;
  const TextStyle style_;
  const FileDescriptor file_;
};

}  // namespace speech::internal
