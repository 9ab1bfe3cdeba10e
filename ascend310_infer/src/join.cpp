#include "join.h"

#include "errors.h"

namespace speech::internal {

Emission join(const std::vector<Part>& parts, std::int64_t labels) {
  Emission whole;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::int64_t end = parts[i].start + parts[i].emission.frames;
    const std::int64_t until = i + 1 < parts.size() ? (parts[i + 1].start + end) / 2 : end;
    if (whole.frames < parts[i].start || until < whole.frames || until > end)
      throw InputError("its parts do not meet: the network gives other frames than described");
    const std::vector<float>& values = parts[i].emission.values;
    const auto from = values.begin() + (whole.frames - parts[i].start) * labels;
    const auto to = values.begin() + (until - parts[i].start) * labels;
    whole.values.insert(whole.values.end(), from, to);
    whole.frames = until;
  }
  return whole;
}

}  // namespace speech::internal
