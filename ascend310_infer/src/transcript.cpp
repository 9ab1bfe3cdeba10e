#include "transcript.h"

#include <limits>

#include "decoding.h"

namespace speech::internal {

Transcript transcript_of(const Emission& emission, const Description& description,
                         double start_s) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  const auto tokens = best_path(emission, description.vocabulary);
  const double seconds =
      description.frame_seconds * static_cast<double>(description.frame_stride);
  const auto time = [&](std::int64_t frame) {
    return seconds > 0 ? start_s + seconds * static_cast<double>(frame) : kUnknown;
  };
  Transcript transcript;
  transcript.text = text_of(tokens, description.vocabulary);
  transcript.confidence = tokens.empty() ? kUnknown : mean_probability(tokens);
  for (const DecodedWord& word : words(tokens, description.vocabulary))
    transcript.words.push_back({word.text, time(word.begin), time(word.end), word.confidence});
  return transcript;
}

}  // namespace speech::internal
