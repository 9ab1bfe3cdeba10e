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
  fs::path features;
  std::int64_t frames = 0;
};

struct Refused {
  std::string name;
  std::string reason;
};

struct Listing {
  std::vector<Utterance> good;  // by name; files of the size that belongs to their frames
  std::vector<Refused> bad;
};

// Throws InputError where no file can bear the name.
void check_name(const std::string& name);

// One line of an index; a relative path starts at `folder`. Throws InputError.
Utterance parse_index_line(std::string_view line, const fs::path& folder);

// Both look at each file once, and throw UsageError where there is nothing at all to be read.
Listing list_folders(const fs::path& features, const fs::path& lengths, std::int64_t dimension);
Listing list_index(const fs::path& index, std::int64_t dimension);

// Whether the results of an utterance are there, whole and no older than `since` (of `changed`).
bool finished(const fs::path& results, const std::string& name, std::int64_t labels,
              std::int64_t since);

// NAME_0.bin, the log-probabilities, and NAME_1.bin, their number of frames.
fs::path result_file(const fs::path& results, const std::string& name, int which);

}  // namespace infer
