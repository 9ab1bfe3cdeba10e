#include "decoding.h"

#include <algorithm>
#include <cmath>

namespace speech::internal {
namespace {

bool has_space(const Vocabulary& vocabulary) {
  return std::find(vocabulary.labels.begin(), vocabulary.labels.end(), " ") !=
         vocabulary.labels.end();
}

}  // namespace

std::vector<Token> best_path(const Emission& emission, const Vocabulary& vocabulary) {
  const auto count = static_cast<std::ptrdiff_t>(vocabulary.labels.size());
  std::vector<Token> tokens;
  std::size_t before = vocabulary.blank;
  for (std::int64_t frame = 0; frame < emission.frames; ++frame) {
    const auto row = emission.values.begin() + frame * count;
    const auto best = std::max_element(row, row + count);
    const auto label = static_cast<std::size_t>(best - row);
    const double probability = std::exp(static_cast<double>(*best));
    if (label != vocabulary.blank) {
      if (label != before) tokens.push_back({label, frame, frame, 0});
      tokens.back().end = frame + 1;
      tokens.back().probability = std::max(tokens.back().probability, probability);
    }
    before = label;
  }
  return tokens;
}

std::vector<DecodedWord> words(const std::vector<Token>& tokens, const Vocabulary& vocabulary) {
  const bool by_token = !has_space(vocabulary);
  std::vector<DecodedWord> result;
  double sum = 0;
  int count = 0;  // tokens of the current word
  for (const Token& token : tokens) {
    const std::string& label = vocabulary.labels[token.label];
    if (label == " " || by_token) count = 0;
    if (label == " ") continue;
    if (count == 0) {
      result.push_back({"", token.begin, 0, 0});
      sum = 0;
    }
    DecodedWord& word = result.back();
    word.text += label;
    word.end = token.end;
    sum += token.probability;
    word.confidence = sum / ++count;
  }
  return result;
}

double mean_probability(const std::vector<Token>& tokens) {
  double sum = 0;
  for (const Token& token : tokens) sum += token.probability;
  return sum / static_cast<double>(tokens.size());
}

std::string text_of(const std::vector<Token>& tokens, const Vocabulary& vocabulary) {
  const std::string between = has_space(vocabulary) ? " " : "";
  std::string text;
  for (const DecodedWord& word : words(tokens, vocabulary))
    text += (text.empty() ? "" : between) + word.text;
  return text;
}

}  // namespace speech::internal
