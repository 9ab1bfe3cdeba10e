// The utterances of a run: from a folder of features and one of lengths, or from an index.
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

// Throws InputError if a name cannot be part of a file name.
void check_name(const std::string& name);

// Parses one line of an index; a relative path starts at `folder`. Throws InputError.
Utterance parse_index_line(std::string_view line, const fs::path& folder);

// List utterances by name. An utterance whose file has another size than its number of frames asks
// for is rejected. Throw UsageError if there is no utterance at all.
UtteranceList list_folders(const fs::path& features, const fs::path& lengths,
                           std::int64_t dimension);
UtteranceList list_index(const fs::path& index, std::int64_t dimension);

// Reads paths of recordings, one per line; empty lines are skipped. Throws UsageError.
std::vector<std::string> read_audio_list(const fs::path& list);

// Whether the results of an utterance are complete and no older than `since` (see `modified_ns`).
bool finished(const fs::path& results, const std::string& name, std::int64_t labels,
              std::int64_t since);

// NAME_0.bin, the log-probabilities, and NAME_1.bin, their number of frames.
fs::path result_file(const fs::path& results, const std::string& name, int which);

}  // namespace speech::internal
