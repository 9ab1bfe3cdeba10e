#include "check.h"
#include "engine.h"
#include "errors.h"
#include "options.h"

using infer::Options;
using infer::parse_options;
using infer::UsageError;

namespace {

Options with(std::vector<std::string> more) {
  std::vector<std::string> all{"--mindir_path", "m", "--index=i"};
  all.insert(all.end(), more.begin(), more.end());
  return parse_options(all);
}

}  // namespace

TEST(options_are_read_in_both_ways) {
  const Options found = parse_options(
      {"--mindir_path=a=b.mindir", "--input0_path", "x", "--input1_path=y", "--device_id", "3,0",
       "--device_target=Ascend310P", "--instances", "2", "--force", "--precision_mode",
       "enforce_fp32", "--batch_size=16", "--overlap=0"});
  CHECK(found.model == "a=b.mindir" && found.features == "x" && found.lengths == "y");
  CHECK((found.devices == std::vector<int>{3, 0}));
  CHECK(found.target == "Ascend" && found.instances == 2 && found.force);
  CHECK(found.precision == "enforce_fp32" && found.batch == 16 && found.overlap == 0);
  CHECK(found.results == "result_Files" && found.times == "time_Result");
  CHECK(parse_options({"--help"}).help);
}

TEST(options_of_recordings) {
  const Options found = parse_options({"--mindir_path", "m", "--audio", "a.wav", "-b", "c d",
                                       "--json", "--audio=--e", "--audio_list=l"});
  CHECK((found.audio == std::vector<std::string>{"a.wav", "-b", "c d", "--e"}));
  CHECK(found.json && found.audio_list == "l" && found.transcribes());
  CHECK(found.results.empty() && found.times.empty());
  CHECK_THROWS(UsageError, "expected a value", parse_options({"--mindir_path=m", "--audio"}));
  CHECK_THROWS(UsageError, "not both", with({"--audio", "a"}));
  CHECK_THROWS(UsageError, "--json is for recordings", with({"--json"}));
  CHECK_THROWS(UsageError, "standard output",
               parse_options({"--mindir_path=m", "--audio=a", "--result_dir=r"}));
}

TEST(options_that_are_wrong) {
  CHECK_THROWS(UsageError, "--mindir_path", parse_options({}));
  CHECK_THROWS(UsageError, "--index", parse_options({"--mindir_path", "m"}));
  CHECK_THROWS(UsageError, "--index", parse_options({"--mindir_path", "m", "--input0_path", "x"}));
  CHECK_THROWS(UsageError, "alone", with({"--input0_path", "x"}));
  CHECK_THROWS(UsageError, "--mindir: no such option", with({"--mindir", "x"}));
  CHECK_THROWS(UsageError, "expected a value", with({"--result_dir"}));
  CHECK_THROWS(UsageError, "expected a value", with({"--result_dir="}));
  CHECK_THROWS(UsageError, "--device_id -1", with({"--device_id", "-1"}));
  CHECK_THROWS(UsageError, "whole number", with({"--device_id", "0,,1"}));
  CHECK_THROWS(UsageError, "whole number", with({"--device_id", "0,x"}));
  CHECK_THROWS(UsageError, "twice", with({"--device_id", "1,1"}));
  CHECK_THROWS(UsageError, "--instances 0", with({"--instances", "0"}));
  CHECK_THROWS(UsageError, "whole number", with({"--batch_size", "99999999999999999999"}));
  CHECK_THROWS(UsageError, "Ascend310P", with({"--device_target", "GPU"}));
  CHECK_THROWS(UsageError, "enforce_fp16", with({"--precision_mode", "half"}));
}

TEST(an_engine_that_was_not_built) {
  CHECK_THROWS(UsageError, "LITE_HOME", infer::choose_engine("", "Ascend"));
  CHECK_THROWS(UsageError, "see build.sh", infer::choose_engine("lite", "CPU"));
}
