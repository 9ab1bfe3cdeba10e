// What is to be recognised: a folder of features and one of lengths, or an index.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "files.h"
#include "utterance.h"

namespace speech::internal {

struct Rejected {
  std::string name;
  std::string reason;
};

struct UtteranceList {
  std::vector<Utterance> accepted;
  std::vector<Rejected> rejected;
};

// Throws InputError where no file can bear the name.
void check_name(const std::string& name);

// One line of an index; a relative path starts at `folder`. Throws InputError.
Utterance parse_index_line(std::string_view line, const fs::path& folder);

// Both look at each file once, whether it has the size that belongs to its frames, list them by
// name, and throw UsageError where there is nothing at all to be read.
UtteranceList list_folders(const fs::path& features, const fs::path& lengths,
                           std::int64_t dimension);
UtteranceList list_index(const fs::path& index, std::int64_t dimension);

// Paths of recordings, one on each line, as they stand; empty lines do not count. Throws
// UsageError.
std::vector<std::string> read_audio_list(const fs::path& list);

// Whether the results of an utterance are there, whole and no older than `since` (of `changed`).
bool finished(const fs::path& results, const std::string& name, std::int64_t labels,
              std::int64_t since);

// NAME_0.bin, the log-probabilities, and NAME_1.bin, their number of frames.
fs::path result_file(const fs::path& results, const std::string& name, int which);

}  // namespace speech::internal
