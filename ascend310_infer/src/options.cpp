#include "options.h"

#include <algorithm>
#include <functional>
#include <map>
#include <sstream>

#include "engine.h"
#include "errors.h"
#include "recordings.h"

namespace infer {
namespace {

constexpr std::int64_t kMost = 1000000000;
const char* const kPrecisions[] = {"enforce_fp32", "preferred_fp32", "enforce_fp16",
                                   "enforce_origin", "preferred_optimal"};

std::int64_t number(const std::string& name, const std::string& text, std::int64_t least,
                    std::int64_t most) {
  const bool digits = !text.empty() && text.size() < 12 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  const std::int64_t value = digits ? std::stoll(text) : -1;
  if (value < least || value > most)
    throw UsageError(name + " " + text + ": expected a whole number from " + std::to_string(least) +
                     " to " + std::to_string(most));
  return value;
}

std::vector<int> devices(const std::string& text) {
  std::vector<int> result;
  std::istringstream parts(text + ",");
  for (std::string part; std::getline(parts, part, ',');)
    result.push_back(static_cast<int>(number("--device_id", part, 0, 1023)));
  auto sorted = result;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    throw UsageError("--device_id " + text + ": names a device twice; see --instances");
  return result;
}

std::string target(const std::string& text) {
  if (text == "CPU") return text;
  if (text == "Ascend" || text == "Ascend310" || text == "Ascend310P") return "Ascend";
  throw UsageError("--device_target " + text + ": expected CPU, Ascend, Ascend310 or Ascend310P");
}

std::string precision(const std::string& text) {
  if (std::find(std::begin(kPrecisions), std::end(kPrecisions), text) != std::end(kPrecisions))
    return text;
  std::string message = "--precision_mode " + text + ": expected one of";
  for (const char* known : kPrecisions) message += std::string(" ") + known;
  throw UsageError(message);
}

// What goes with what, and what is taken where nothing is said.
void check_together(Options& options) {
  if (options.model.empty()) throw UsageError("--mindir_path: which model? See --help");
  const bool folders = !options.features.empty() && !options.lengths.empty();
  const bool either = !options.features.empty() || !options.lengths.empty();
  if (options.transcribes()) {
    if (either || !options.index.empty())
      throw UsageError("expected features or recordings (--audio, --audio_list), not both");
    if (!options.results.empty() || options.force)
      throw UsageError(
          "--result_dir and --force are for features: of recordings the text is written "
          "to standard output");
    return;
  }
  if (options.index.empty() ? !folders : either)
    throw UsageError(
        "expected --input0_path and --input1_path, or --index alone, or recordings (--audio)");
  if (options.json) throw UsageError("--json is for recordings: --audio, --audio_list");
  if (options.results.empty()) options.results = "result_Files";
  if (options.times.empty()) options.times = "time_Result";
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  const std::map<std::string, std::function<void(const std::string&)>> values{
      {"--mindir_path", [&](const std::string& text) { options.model = text; }},
      {"--input0_path", [&](const std::string& text) { options.features = text; }},
      {"--input1_path", [&](const std::string& text) { options.lengths = text; }},
      {"--index", [&](const std::string& text) { options.index = text; }},
      {"--audio", [&](const std::string& text) { options.audio.push_back(text); }},
      {"--audio_list", [&](const std::string& text) { options.audio_list = text; }},
      {"--result_dir", [&](const std::string& text) { options.results = text; }},
      {"--time_dir", [&](const std::string& text) { options.times = text; }},
      {"--device_target", [&](const std::string& text) { options.target = target(text); }},
      {"--device_id", [&](const std::string& text) { options.devices = devices(text); }},
      {"--engine", [&](const std::string& text) { options.engine = text; }},
      {"--precision_mode", [&](const std::string& text) { options.precision = precision(text); }},
      {"--python", [&](const std::string& text) { options.python = text; }},
      {"--instances",
       [&](const std::string& text) {
         options.instances = static_cast<int>(number("--instances", text, 1, 64));
       }},
      {"--threads",
       [&](const std::string& text) {
         options.threads = static_cast<int>(number("--threads", text, 0, 1024));
       }},
      {"--batch_size",
       [&](const std::string& text) { options.batch = number("--batch_size", text, 1, 4096); }},
      {"--max_frames",
       [&](const std::string& text) { options.longest = number("--max_frames", text, 1, kMost); }},
      {"--overlap",
       [&](const std::string& text) { options.overlap = number("--overlap", text, 0, kMost); }},
  };
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      options.help = true;
      return options;
    }
    if (argument == "--force" || argument == "--json") {
      (argument == "--force" ? options.force : options.json) = true;
      continue;
    }
    const auto equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const auto found = values.find(name);
    if (found == values.end()) throw UsageError(argument + ": no such option; --help lists them");
    if (equals == std::string::npos && i + 1 == arguments.size())
      throw UsageError(name + ": expected a value");
    const std::string text =
        equals != std::string::npos ? argument.substr(equals + 1) : arguments[++i];
    if (text.empty()) throw UsageError(name + ": expected a value");
    found->second(text);
    if (argument == "--audio")  // takes all that is no option
      while (i + 1 < arguments.size() && arguments[i + 1].rfind("--", 0) != 0)
        found->second(arguments[++i]);
  }
  check_together(options);
  return options;
}

std::string usage() {
  std::string engines;
  for (const EngineKind& kind : engine_kinds())
    engines += "  " + kind.name + ": " + kind.what + "\n";
  return "Runs a speech recogniser over recordings, and prints texts; or over features, and "
         "writes\n"
         "log-probabilities.\n"
         "\n"
         "  infer --mindir_path NAME.mindir --audio FILE... [--json] [options]\n"
         "  infer --mindir_path NAME.mindir --audio_list FILE [--json] [options]\n"
         "  infer --mindir_path NAME.mindir --input0_path DIR --input1_path DIR [options]\n"
         "  infer --mindir_path NAME.json --index FILE [options]\n"
         "\n"
         "  --mindir_path FILE   the model or its description; export.py writes both\n"
         "  --audio FILE...      recordings in any format that libsndfile reads, of any rate: of "
         "a\n"
         "                       single one the text is printed, of several a line each, file and\n"
         "                       text parted by a tab, in this order\n"
         "  --audio_list FILE    the same for the recordings whose paths are its lines\n"
         "  --json               a line of JSON each: path, text, duration (s), confidence, words\n"
         "                       with start and end (s) and confidence\n"
         "  --input0_path DIR    NAME.bin: float32 features (bin, frame) of an utterance\n"
         "  --input1_path DIR    NAME.bin: int32, its number of frames\n"
         "  --index FILE         lines {\"name\": ..., \"features\": PATH, \"frames\": N} instead\n"
         "  --result_dir DIR     NAME_0.bin: float32 log-probabilities (frame, label), and\n"
         "                       NAME_1.bin: int32, its number of frames (result_Files)\n"
         "  --time_dir DIR       figures: test_perform_static.txt and .json (time_Result; with\n"
         "                       recordings none are written where this is left out)\n"
         "  --device_target T    CPU, Ascend, Ascend310, Ascend310P (what the model is for)\n"
         "  --device_id N,N,...  the cards (0)\n"
         "  --instances N        processes on each card, or on the CPU (1)\n"
         "  --threads N          of each process, on the CPU (cores shared evenly)\n"
         "  --batch_size N       utterances at once, where the model leaves it open (8)\n"
         "  --max_frames N       split longer ones, where the model takes any (0: do not)\n"
         "  --overlap N          frames that two parts of a split utterance share\n"
         "                       (a fifth of the longest)\n"
         "  --precision_mode P   enforce_fp32, preferred_fp32, enforce_fp16, enforce_origin or\n"
         "                       preferred_optimal, on Ascend\n"
         "  --engine E           one of those below (the first that serves the device)\n"
         "  --python FILE        the Python whose MindSpore the engine wheel uses\n"
         "  --force              also those whose results are there and newer\n"
         "\n"
         "Exit code: 0 all done, 1 some failed, 2 nothing can be done (the command, the model, "
         "the\n"
         "device), 130 and 143 after Ctrl-C and SIGTERM: the batch at hand is finished, what is\n"
         "written is whole, and the same command goes on.\n"
         "\n" +
         std::string(kReadsAudio ? "" : "This build reads no recordings: build.sh says why.\n\n") +
         "Engines of this build:\n" + engines;
}

}  // namespace infer
