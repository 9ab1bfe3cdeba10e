// Best-path decoding of CTC (Graves et al. 2006): the best label of each frame, repeats merged and
// blanks dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "join.h"

namespace speech::internal {

struct Vocabulary {
  std::vector<std::string> labels;  // in the order of the network's outputs
  std::size_t blank = 0;
};

// A recognized label, in the frames [begin, end) in which it was the best one.
struct Token {
  std::size_t label = 0;
  std::int64_t begin = 0, end = 0;
  double probability = 0;  // the highest in these frames
};

struct DecodedWord {
  std::string text;
  std::int64_t begin = 0, end = 0;  // output frames, from its first token to its last
  double confidence = 0;            // mean probability of its tokens
};

std::vector<Token> best_path(const Emission& emission, const Vocabulary& vocabulary);

// Splits tokens at spaces. Where no label is a space and the script separates no words, as Han,
// each token is a word.
std::vector<DecodedWord> words(const std::vector<Token>& tokens, const Vocabulary& vocabulary);

// The words, separated by one space where the vocabulary has one or has labels of several
// characters, such as syllables; as Python's decoders write them.
std::string text_of(const std::vector<Token>& tokens, const Vocabulary& vocabulary);

// Mean probability of at least one token.
double mean_probability(const std::vector<Token>& tokens);

}  // namespace speech::internal
