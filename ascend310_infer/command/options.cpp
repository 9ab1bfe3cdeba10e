#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>

#include "engine.h"
#include "errors.h"
#include "frontend.h"

namespace speech::internal {
namespace {

constexpr std::int64_t kMaxFrames = 1000000000;

std::vector<int> parse_devices(const std::string& text) {
  std::vector<int> devices;
  std::istringstream parts(text + ",");
  for (std::string part; std::getline(parts, part, ',');) {
    int device = 0;
    if (!CLI::detail::lexical_cast(part, device) || device < 0 || device > 1023)
      throw CLI::ValidationError("--device_id", text +
                                                    ": expected whole numbers from 0 to 1023, "
                                                    "separated by commas");
    if (std::count(devices.begin(), devices.end(), device) > 0)
      throw CLI::ValidationError("--device_id", text + ": names a device twice; see --instances");
    devices.push_back(device);
  }
  return devices;
}

// Checks which options go together, and fills in folders that were not given.
void check_together(Options& options) {
  const bool folders = !options.features.empty() && !options.lengths.empty();
  const bool either = !options.features.empty() || !options.lengths.empty();
  if (options.stream) {
    if (either || !options.index.empty() || options.transcribes())
      throw UsageError("--stream: standard input is recognized; leave out files");
    return;
  }
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

// The parser, bound to `options`.
std::unique_ptr<CLI::App> make_parser(Options& options) {
  auto app = std::make_unique<CLI::App>(
      "Recognize speech: print the texts of recordings, or write the log-probabilities of "
      "features.\n\n"
      "  infer --mindir_path NAME.mindir --audio FILE... [--json] [options]\n"
      "  infer --mindir_path NAME.mindir --audio_list FILE [--json] [options]\n"
      "  infer --mindir_path NAME.onnx --stream [--json] < SAMPLES\n"
      "  infer --mindir_path NAME.mindir --input0_path DIR --input1_path DIR [options]\n"
      "  infer --mindir_path NAME.json --index FILE [options]");
  app->name("infer");
  app->get_formatter()->column_width(28);
  app->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const CLI::Validator not_empty(
      [](const std::string& text) { return std::string(text.empty() ? "expected a value" : ""); },
      "", "");
  const auto add_text = [&](const std::string& name, auto& value, const std::string& type,
                            const std::string& what) {
    return app
        ->add_option_function<std::string>(
            name, [&value](const std::string& text) { value = text; }, what)
        ->type_name(type)
        ->check(not_empty);
  };
  const auto add_number = [&](const std::string& name, auto& value, std::int64_t least,
                              std::int64_t most, const std::string& what) {
    return app->add_option(name, value, what)->type_name("N")->check(CLI::Range(least, most));
  };

  add_text("--mindir_path", options.model, "FILE",
           "the model or its description; export.py writes both")
      ->required();
  app->option_defaults()->group("Recordings");
  app->add_option(
         "--audio", options.audio,
         "recordings (WAV, FLAC, Ogg, MP3, SPHERE, AIFF, ...), of any sample rate; the text of "
         "a single one is printed, of several a line each: file, tab, text")
      ->type_name("FILE...")
      ->take_all()
      ->allow_extra_args(false)
      ->check(not_empty);
  add_text("--audio_list", options.audio_list, "FILE",
           "the same for the recordings whose paths are its lines");
  app->add_flag("--json", options.json,
                "print a line of JSON each: path, text, duration (s), confidence, and words with "
                "start and end (s) and confidence");
  app->option_defaults()->group("Streams");
  app->add_flag("--stream", options.stream,
                "recognize standard input as it comes: raw samples of 16 bits, one channel, at the "
                "model's rate; lines are marked partial or final (ONNX file of export.py "
                "--streaming)");
  app->add_option("--pause", options.pause, "s without a letter, after which a text is final [0.8]")
      ->type_name("S");
  app->add_option("--chunk", options.chunk, "s of audio that the network takes at a time [0.2]")
      ->type_name("S");
  app->option_defaults()->group("Features");
  add_text("--input0_path", options.features, "DIR",
           "NAME.bin: float32 features (bin, frame) of an utterance");
  add_text("--input1_path", options.lengths, "DIR", "NAME.bin: int32, its number of frames");
  add_text("--index", options.index, "FILE",
           R"(lines {"name": ..., "features": PATH, "frames": N} instead of the two folders)");
  add_text("--result_dir", options.results, "DIR",
           "NAME_0.bin: float32 log-probabilities (frame, label); NAME_1.bin: int32, their number "
           "of frames [result_Files]");
  app->add_flag("--force", options.force,
                "recognize again what has results newer than its features");
  app->option_defaults()->group("Statistics");
  add_text("--time_dir", options.times, "DIR",
           "test_perform_static.txt and .json [time_Result; none for recordings]");
  app->option_defaults()->group("Device and batches");
  add_text("--device_target", options.target, "TARGET",
           "CPU, Ascend, Ascend310 or Ascend310P [what the model was exported for]")
      ->check(CLI::IsMember({"CPU", "Ascend", "Ascend310", "Ascend310P"}));
  app->add_option_function<std::string>(
         "--device_id",
         [&options](const std::string& text) { options.devices = parse_devices(text); },
         "numbers of the cards [0]")
      ->type_name("N,N,...");
  add_number("--instances", options.instances, 1, 64, "processes on each card, or on the CPU [1]");
  add_number("--threads", options.threads, 0, 1024,
             "threads of each process on the CPU [0: cores shared evenly]");
  add_number("--batch_size", options.batch, 1, 4096,
             "utterances in a batch, where the model leaves it open [8]");
  add_number("--max_frames", options.longest, 1, kMaxFrames,
             "split longer utterances, where the model takes any length");
  add_number("--overlap", options.overlap, 0, kMaxFrames,
             "frames that two parts of a split utterance share [a fifth of the longest part]");
  add_text("--precision_mode", options.precision, "MODE",
           "enforce_fp32, preferred_fp32, enforce_fp16, enforce_origin or preferred_optimal, on "
           "Ascend [preferred_fp32]")
      ->check(CLI::IsMember({"enforce_fp32", "preferred_fp32", "enforce_fp16", "enforce_origin",
                             "preferred_optimal"}));
  add_text("--engine", options.engine, "NAME",
           "one of those listed below [the first that serves the device]");
  add_text("--python", options.python, "FILE", "the Python whose MindSpore the engine wheel uses");

  std::string engines;
  for (const EngineKind& kind : engine_kinds())
    engines += "  " + kind.name + ": " + kind.what + "\n";
  app->footer(
      "Exit code: 0 all done, 1 some utterances failed, 2 nothing can be done (the command, the\n"
      "model, the device), 130 and 143 after Ctrl-C and SIGTERM: the current batch is finished,\n"
      "no file is left half written, and the same command continues.\n\n" +
      std::string(kReadsAudio ? "" : "This build reads no recordings: build.sh says why.\n\n") +
      "Engines of this build:\n" + engines);
  return app;
}

// CLI11 takes words that follow an option only up to the next one that begins with a dash. All that
// follows --audio up to the next "--" is a file here, "-b" too.
std::vector<std::string> with_one_option_for_each_file(const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word.size() > 3 && word.rfind("--", 0) == 0 && word.back() == '=' &&
        word.find('=') + 1 == word.size())
      throw UsageError(word.substr(0, word.size() - 1) + ": expected a value");
    const auto is_option = [](const std::string& text) { return text.rfind("--", 0) == 0; };
    if (word != "--audio" || i + 1 == arguments.size() || is_option(arguments[i + 1])) {
      words.push_back(word);
      continue;
    }
    while (i + 1 < arguments.size() && !is_option(arguments[i + 1]))
      words.push_back("--audio=" + arguments[++i]);
  }
  return words;
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  const auto parser = make_parser(options);
  std::vector<std::string> words = with_one_option_for_each_file(arguments);
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  try {
    parser->parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    options.help = true;
    return options;
  } catch (const CLI::ParseError& error) {
    std::string reason = error.what();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    throw UsageError(reason + "; --help lists the options");
  }
  if (options.target.rfind("Ascend", 0) == 0) options.target = "Ascend";
  check_together(options);
  return options;
}

std::string usage() {
  Options options;
  return make_parser(options)->help();
}

}  // namespace speech::internal
