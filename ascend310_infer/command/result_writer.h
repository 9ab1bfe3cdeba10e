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

  // index: of the utterance in the listing. Throws InputError, OutputError.
  virtual void put(std::size_t index, const Utterance& utterance, const Emission& emission) = 0;
};

// NAME_0.bin and NAME_1.bin.
class LogProbFiles : public ResultWriter {
 public:
  explicit LogProbFiles(fs::path folder) : folder_(std::move(folder)) {}
  void put(std::size_t index, const Utterance& utterance, const Emission& emission) override;

 private:
  const fs::path folder_;
};

// How texts are written, a line each.
struct TextStyle {
  bool json = false;
  bool alone = false;        // the one text that there is, without the path
  double frame_seconds = 0;  // from one output frame to the next
};

std::string text_line(const Utterance& utterance, const Emission& emission,
                      const Vocabulary& vocabulary, const TextStyle& style);

// Lines of one process, which another one, that made this, may read.
class TranscriptBuffer : public ResultWriter {
 public:
  // Throws OutputError.
  TranscriptBuffer(const Vocabulary& vocabulary, const TextStyle& style);
  void put(std::size_t index, const Utterance& utterance, const Emission& emission) override;

  // Puts the lines that are there in their places.
  void collect(std::vector<std::string>& lines) const;

 private:
  const Vocabulary vocabulary_;
  const TextStyle style_;
  const FileDescriptor file_;
};

}  // namespace speech::internal
