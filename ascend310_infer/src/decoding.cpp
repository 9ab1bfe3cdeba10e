#include "decoding.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

namespace speech::internal {
namespace {

// Blocks of the scripts whose words are not separated by spaces, first and last code point, as in
// common/text/tokenizer.py.
constexpr std::pair<char32_t, char32_t> kScriptsWithoutSpaces[] = {
    {0x0E00, 0x0E7F}, {0x0E80, 0x0EFF}, {0x0F00, 0x0FFF}, {0x1000, 0x109F}, {0xA9E0, 0xA9FF},
    {0xAA60, 0xAA7F}, {0x1780, 0x17FF}, {0x1950, 0x19DF}, {0x1A20, 0x1AAF}, {0xAA80, 0xAADF},
    {0x1B00, 0x1B7F}, {0xA980, 0xA9DF}, {0x3040, 0x30FF}, {0x31F0, 0x31FF}, {0xFF66, 0xFF9F},
    {0x1AFF0, 0x1B16F}, {0x3100, 0x312F}, {0x31A0, 0x31BF}, {0xA000, 0xA4CF}, {0x2E80, 0x2FDF},
    {0x3005, 0x3007}, {0x3400, 0x4DBF}, {0x4E00, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x3FFFD}};

std::size_t first_size(const std::string& label) {  // bytes of its first character in UTF-8
  const auto first = static_cast<unsigned char>(label.empty() ? '\0' : label[0]);
  return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// Whether a label stands for itself, without spaces around it: a character of such a script, or
// several characters.
bool is_word(const std::string& label) {
  const std::size_t size = first_size(label);
  if (label.size() > size) return true;
  const auto first = static_cast<unsigned char>(label.empty() ? '\0' : label[0]);
  char32_t code = size == 1 ? first : first & (0xFF >> (size + 1));
  for (std::size_t i = 1; i < label.size(); ++i)
    code = code << 6 | (static_cast<unsigned char>(label[i]) & 0x3F);
  return std::any_of(
      std::begin(kScriptsWithoutSpaces), std::end(kScriptsWithoutSpaces),
      [code](const auto& block) { return block.first <= code && code <= block.second; });
}

// Whether labels of several characters, such as the syllables "ni3" and "hao3", are words.
bool has_long_labels(const Vocabulary& vocabulary) {
  for (std::size_t i = 0; i < vocabulary.labels.size(); ++i)
    if (i != vocabulary.blank && vocabulary.labels[i].size() > first_size(vocabulary.labels[i]))
      return true;
  return false;
}

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
  const auto& labels = vocabulary.labels;
  const bool by_token =
      !has_space(vocabulary) && std::any_of(labels.begin(), labels.end(), is_word);
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
  const bool spaces = has_space(vocabulary) || has_long_labels(vocabulary);
  const std::string between = spaces ? " " : "";
  std::string text;
  for (const DecodedWord& word : words(tokens, vocabulary))
    text += (text.empty() ? "" : between) + word.text;
  return text;
}

}  // namespace speech::internal
