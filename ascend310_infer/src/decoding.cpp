#include "decoding.h"

#include <algorithm>
#include <cmath>

namespace infer {
namespace {

bool spaced(const Alphabet& alphabet) {
  return std::find(alphabet.labels.begin(), alphabet.labels.end(), " ") != alphabet.labels.end();
}

}  // namespace

std::vector<Letter> best_path(const Emission& emission, const Alphabet& alphabet) {
  const auto count = static_cast<std::ptrdiff_t>(alphabet.labels.size());
  std::vector<Letter> letters;
  std::size_t before = alphabet.blank;
  for (std::int64_t frame = 0; frame < emission.frames; ++frame) {
    const auto row = emission.values.begin() + frame * count;
    const auto best = std::max_element(row, row + count);
    const auto label = static_cast<std::size_t>(best - row);
    const double probability = std::exp(static_cast<double>(*best));
    if (label != alphabet.blank) {
      if (label != before) letters.push_back({label, frame, frame, 0});
      letters.back().end = frame + 1;
      letters.back().probability = std::max(letters.back().probability, probability);
    }
    before = label;
  }
  return letters;
}

std::vector<Word> words(const std::vector<Letter>& letters, const Alphabet& alphabet) {
  const bool by_letter = !spaced(alphabet);
  std::vector<Word> result;
  double sum = 0;
  int count = 0;  // letters of the word at hand
  for (const Letter& letter : letters) {
    const std::string& label = alphabet.labels[letter.label];
    if (label == " " || by_letter) count = 0;
    if (label == " ") continue;
    if (count == 0) {
      result.push_back({"", letter.begin, 0, 0});
      sum = 0;
    }
    Word& word = result.back();
    word.text += label;
    word.end = letter.end;
    sum += letter.probability;
    word.confidence = sum / ++count;
  }
  return result;
}

std::string text_of(const std::vector<Letter>& letters, const Alphabet& alphabet) {
  const std::string between = spaced(alphabet) ? " " : "";
  std::string text;
  for (const Word& word : words(letters, alphabet))
    text += (text.empty() ? "" : between) + word.text;
  return text;
}

}  // namespace infer
