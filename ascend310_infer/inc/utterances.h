// What is to be recognised: a folder of features and one of lengths, or an index.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "files.h"

namespace infer {

struct Utterance {
  std::string name;
  fs::path file;            // of features, or a recording
  std::int64_t frames = 0;  // of features
  // Of a recording:
  double duration_s = 0;
  double start_s = 0;  // of its features; later than 0 where silence is left out
};

struct Refused {
  std::string name;
  std::string reason;
};

struct Listing {
  std::vector<Utterance> good;
  std::vector<Refused> bad;
};

// Throws InputError where no file can bear the name.
void check_name(const std::string& name);

// Throws InputError where it is no number of frames to work with.
void check_frames(std::int64_t frames);

// One line of an index; a relative path starts at `folder`. Throws InputError.
Utterance parse_index_line(std::string_view line, const fs::path& folder);

// Both look at each file once, whether it has the size that belongs to its frames, list them by
// name, and throw UsageError where there is nothing at all to be read.
Listing list_folders(const fs::path& features, const fs::path& lengths, std::int64_t dimension);
Listing list_index(const fs::path& index, std::int64_t dimension);

// Paths of recordings, one on each line, as they stand; empty lines do not count. Throws
// UsageError.
std::vector<std::string> read_audio_list(const fs::path& list);

// Whether the results of an utterance are there, whole and no older than `since` (of `changed`).
bool finished(const fs::path& results, const std::string& name, std::int64_t labels,
              std::int64_t since);

// NAME_0.bin, the log-probabilities, and NAME_1.bin, their number of frames.
fs::path result_file(const fs::path& results, const std::string& name, int which);

}  // namespace infer
