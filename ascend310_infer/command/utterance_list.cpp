#include "utterance_list.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>

#include "errors.h"
#include "json.h"

namespace speech::internal {
namespace {

void check_size(const Utterance& utterance, std::int64_t dimension) {
  const auto found = bytes_of(utterance.file);
  const auto expected = static_cast<std::uintmax_t>(utterance.frames * dimension) * sizeof(float);
  if (found != expected)
    throw InputError(utterance.file.string() + ": " + std::to_string(found) + " bytes, expected " +
                     std::to_string(expected) + " for " + std::to_string(utterance.frames) +
                     " frames of " + std::to_string(dimension) + " bins");
}

void require_folder(const fs::path& path, const std::string& option) {
  std::error_code error;
  if (!fs::is_directory(path, error))
    throw UsageError(option + " " + path.string() + ": no such folder");
}

}  // namespace

void check_name(const std::string& name) {
  const bool odd = std::any_of(name.begin(), name.end(), [](char c) {
    return c == '/' || static_cast<unsigned char>(c) < 0x20;
  });
  if (name.empty() || odd)
    throw InputError("the name " + json_text(name) + " cannot be that of a file");
}

Utterance parse_index_line(std::string_view line, const fs::path& folder) {
  Json entry;
  try {
    entry = parse_json(line);
  } catch (const std::invalid_argument& error) {
    throw InputError(std::string("not a line of JSON (") + error.what() + ")");
  }
  const Json* name = find_member(entry, "name");
  const Json* features = find_member(entry, "features");
  const Json* frames = find_member(entry, "frames");
  Utterance utterance;
  if (name == nullptr || !name->is_string() || features == nullptr || !features->is_string() ||
      frames == nullptr || !to_integer(*frames, utterance.frames))
    throw InputError(R"(expected {"name": TEXT, "features": PATH, "frames": NUMBER})");
  utterance.name = name->get<std::string>();
  check_name(utterance.name);
  const auto path = features->get<std::string>();
  if (path.empty() || path.find('\0') != std::string::npos)
    throw InputError("the path of the features cannot be that of a file");
  utterance.file = folder / path;
  check_frames(utterance.frames);
  return utterance;
}

UtteranceList list_folders(const fs::path& features, const fs::path& lengths,
                           std::int64_t dimension) {
  require_folder(features, "--input0_path");
  require_folder(lengths, "--input1_path");
  UtteranceList listing;
  for (const fs::directory_entry& entry : fs::directory_iterator(features)) {
    // Hidden files are those that are being written.
    if (entry.path().extension() != ".bin" || entry.path().filename().string()[0] == '.') continue;
    Utterance utterance;
    utterance.name = entry.path().stem().string();
    utterance.file = entry.path();
    try {
      check_name(utterance.name);
      utterance.frames = read_int(lengths / entry.path().filename());
      check_frames(utterance.frames);
      check_size(utterance, dimension);
      listing.accepted.push_back(std::move(utterance));
    } catch (const InputError& error) {
      listing.rejected.push_back({utterance.name, error.what()});
    }
  }
  if (listing.accepted.empty() && listing.rejected.empty())
    throw UsageError("--input0_path " + features.string() + ": holds no .bin file");
  std::sort(listing.accepted.begin(), listing.accepted.end(),
            [](const Utterance& a, const Utterance& b) { return a.name < b.name; });
  return listing;
}

UtteranceList list_index(const fs::path& index, std::int64_t dimension) {
  std::string text;
  try {
    text = read_text(index);
  } catch (const std::runtime_error& error) {
    throw UsageError(std::string("--index ") + error.what());
  }
  UtteranceList listing;
  std::set<std::string> names;
  std::string_view rest = text;
  for (int number = 1; !rest.empty(); ++number) {
    const auto end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string called = index.filename().string() + " line " + std::to_string(number);
    try {
      Utterance utterance = parse_index_line(line, index.parent_path());
      called = utterance.name;
      if (!names.insert(utterance.name).second)
        throw InputError("is in the index twice; names must differ");
      check_size(utterance, dimension);
      listing.accepted.push_back(std::move(utterance));
    } catch (const InputError& error) {
      listing.rejected.push_back({called, error.what()});
    }
  }
  if (listing.accepted.empty() && listing.rejected.empty())
    throw UsageError("--index " + index.string() + ": names no utterance");
  std::sort(listing.accepted.begin(), listing.accepted.end(),
            [](const Utterance& a, const Utterance& b) { return a.name < b.name; });
  return listing;
}

std::vector<std::string> read_audio_list(const fs::path& list) {
  std::string content;
  try {
    content = read_text(list);
  } catch (const std::runtime_error& error) {
    throw UsageError(std::string("--audio_list ") + error.what());
  }
  if (content.find('\0') != std::string::npos)
    throw UsageError("--audio_list " + list.string() +
                     ": not UTF-8 text (it holds zero bytes); if it is UTF-16, convert it, with "
                     "iconv -f UTF-16 -t UTF-8");
  std::istringstream text(content);
  std::vector<std::string> paths;
  for (std::string line; std::getline(text, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) paths.push_back(line);
  }
  if (paths.empty()) throw UsageError("--audio_list " + list.string() + ": names no recording");
  return paths;
}

bool finished(const fs::path& results, const std::string& name, std::int64_t labels,
              std::int64_t since) {
  const fs::path log_probs = result_file(results, name, 0), frames = result_file(results, name, 1);
  if (std::min(modified_ns(log_probs), modified_ns(frames)) < since) return false;
  try {
    const auto expected = static_cast<std::uintmax_t>(read_int(frames) * labels) * sizeof(float);
    return bytes_of(log_probs) == expected;
  } catch (const InputError&) {
    return false;
  }
}

fs::path result_file(const fs::path& results, const std::string& name, int which) {
  return results / (name + "_" + std::to_string(which) + ".bin");
}

}  // namespace speech::internal
