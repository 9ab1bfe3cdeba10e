#include <doctest/doctest.h>

#include "engine.h"
#include "errors.h"
#include "options.h"
#include "samples.h"

namespace internal = speech::internal;

using internal::Options;
using internal::parse_options;
using internal::UsageError;

namespace {

Options with(std::vector<std::string> more) {
  std::vector<std::string> all{"--mindir_path", "m", "--index=i"};
  all.insert(all.end(), more.begin(), more.end());
  return parse_options(all);
}

void check_refused(const std::vector<std::string>& arguments, const char* said) {
  CAPTURE(said);
  try {
    parse_options(arguments);
    FAIL_CHECK("nothing was thrown");
  } catch (const UsageError& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(message.find(said) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

}  // namespace

TEST_CASE("values follow an option or an equals sign, and the last one counts") {
  const Options found = parse_options(
      {"--mindir_path=first", "--mindir_path=a=b.mindir", "--input0_path", "x", "--input1_path=y",
       "--device_id", "1", "--device_id", "3,0", "--device_target=Ascend310P", "--instances", "2",
       "--force", "--precision_mode", "enforce_fp32", "--batch_size=16", "--overlap=0"});
  CHECK(found.model == "a=b.mindir");
  CHECK(found.features == "x");
  CHECK(found.lengths == "y");
  CHECK(found.devices == std::vector<int>{3, 0});
  CHECK(found.target == "Ascend");
  CHECK(found.instances == 2);
  CHECK(found.force);
  CHECK(found.precision == "enforce_fp32");
  CHECK(found.batch == 16);
  CHECK(found.overlap == 0);
  CHECK(found.results == "result_Files");
  CHECK(found.times == "time_Result");
  CHECK(parse_options({"--help"}).help);
  CHECK(parse_options({"-h"}).help);
}

TEST_CASE("values that are not given keep their defaults") {
  const Options found = with({});
  CHECK(found.devices == std::vector<int>{0});
  CHECK(found.target.empty());
  CHECK(found.instances == 1);
  CHECK(found.threads == 0);
  CHECK(found.batch == 8);
  CHECK(found.longest == 0);
  CHECK(found.overlap == -1);
  CHECK(!found.force);
}

TEST_CASE("--audio takes all files up to the next option") {
  const Options found = parse_options({"--mindir_path", "m", "--audio", "a.wav", "-b", "c d",
                                       "--json", "--audio=--e", "--audio_list=l"});
  CHECK(found.audio == std::vector<std::string>{"a.wav", "-b", "c d", "--e"});
  CHECK(found.json);
  CHECK(found.audio_list == "l");
  CHECK(found.transcribes());
  CHECK(found.results.empty());
  CHECK(found.times.empty());
  check_refused({"--mindir_path=m", "--audio"}, "--audio");
  check_refused({"--mindir_path=m", "--index=i", "--audio", "a"}, "not both");
  check_refused({"--mindir_path=m", "--index=i", "--json"}, "--json is for recordings");
  check_refused({"--mindir_path=m", "--audio=a", "--result_dir=r"}, "standard output");
}

TEST_CASE("wrong options are rejected in one line that names them") {
  const auto rejected = [](std::vector<std::string> more, const char* said) {
    more.insert(more.begin(), {"--mindir_path", "m", "--index=i"});
    check_refused(more, said);
  };
  check_refused({}, "--mindir_path");
  check_refused({"--mindir_path", "m"}, "--index");
  check_refused({"--mindir_path", "m", "--input0_path", "x"}, "--index");
  rejected({"--input0_path", "x"}, "alone");
  rejected({"--mindir", "x"}, "--mindir");
  rejected({"--result_dir"}, "--result_dir");
  rejected({"--result_dir="}, "--result_dir: expected a value");
  rejected({"--result_dir", ""}, "--result_dir: expected a value");
  rejected({"--device_id", "-1"}, "--device_id: -1: expected whole numbers");
  rejected({"--device_id", "0,,1"}, "expected whole numbers");
  rejected({"--device_id", "0,x"}, "expected whole numbers");
  rejected({"--device_id", "1,1"}, "twice");
  rejected({"--instances", "0"}, "--instances");
  rejected({"--batch_size", "99999999999999999999"}, "--batch_size");
  rejected({"--batch_size", "8.5"}, "--batch_size");
  rejected({"--device_target", "GPU"}, "Ascend310P");
  rejected({"--precision_mode", "half"}, "enforce_fp16");
}

TEST_CASE("the help names every option and the engines of the build") {
  const std::string help = internal::usage();
  for (const char* name : {"--mindir_path",   "--audio",
                           "--audio_list",    "--json",
                           "--input0_path",   "--input1_path",
                           "--index",         "--result_dir",
                           "--force",         "--time_dir",
                           "--device_target", "--device_id",
                           "--instances",     "--threads",
                           "--batch_size",    "--max_frames",
                           "--overlap",       "--precision_mode",
                           "--engine",        "--python",
                           "Exit code",       "Engines of this build"}) {
    CAPTURE(name);
    CHECK(help.find(name) != std::string::npos);
  }
}

TEST_CASE("an engine that was not built is rejected") {
  const auto message = [](const char* name, const char* target, const char* model) {
    try {
      internal::choose_engine(name, target, model);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(says(message("", "Ascend", "m.mindir"), "LITE_HOME"));
  CHECK(says(message("", "CPU", "m.onnx"), "m.onnx: no engine for it on CPU"));
  CHECK(says(message("", "CPU", "m.onnx"), "install OpenVINO"));
  CHECK(says(message("", "CPU", "m.mindir"), "Python that has MindSpore"));
  CHECK(says(message("lite", "CPU", "m.mindir"), "see build.sh"));
  const samples::Folder folder;  // what is inside an ONNX file, its engine alone can tell
  samples::write(folder.path / "m.onnx", std::string("onnx"));
  CHECK_THROWS_WITH_AS(internal::describe_model(folder.path / "m.onnx"),
                       doctest::Contains("install OpenVINO"), UsageError);
}
