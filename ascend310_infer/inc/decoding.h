// From log-probabilities to text: the best label of each frame, collapsed (CTC, Graves et al.
// 2006).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "join.h"

namespace infer {

struct Alphabet {
  std::vector<std::string> labels;  // in the order of the network's outputs
  std::size_t blank = 0;
};

// A label that was recognised: frames [begin, end) in which it was the best one.
struct Letter {
  std::size_t label = 0;
  std::int64_t begin = 0, end = 0;
  double probability = 0;  // the highest in these frames
};

struct Word {
  std::string text;
  std::int64_t begin = 0, end = 0;  // of its letters
  double confidence = 0;            // the mean probability of its letters
};

// The labels that the best path stands for: repeats merged, then blanks dropped.
std::vector<Letter> best_path(const Emission& emission, const Alphabet& alphabet);

// What stands between spaces; where no label is a space, as for Mandarin, each letter.
std::vector<Word> words(const std::vector<Letter>& letters, const Alphabet& alphabet);

// Letters as common/decoding.py writes them: words parted by one space.
std::string text_of(const std::vector<Letter>& letters, const Alphabet& alphabet);

}  // namespace infer
