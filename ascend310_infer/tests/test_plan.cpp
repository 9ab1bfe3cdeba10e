#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "errors.h"
#include "join.h"
#include "plan.h"

namespace internal = speech::internal;

using internal::Description;
using internal::Job;
using internal::Plan;
using internal::PlannedBatch;
using internal::Row;
using internal::Utterance;

namespace {

Description described(std::vector<internal::Bucket> buckets, std::int64_t stride = 2) {
  Description description;
  description.frame_stride = stride;
  description.buckets = std::move(buckets);
  return description;
}

std::vector<Utterance> utterances(const std::vector<std::int64_t>& frames) {
  std::vector<Utterance> result;
  for (const std::int64_t count : frames) result.push_back({"u", "", count});
  return result;
}

// "bucket:rows of input:frames of input=utterance,utterance" of each batch, in order of the text.
std::vector<std::string> formatted(const Plan& plan) {
  std::vector<std::string> batches;
  for (const Job& job : plan.jobs)
    for (const PlannedBatch& batch : job) {
      std::string text = std::to_string(batch.bucket) + ":" + std::to_string(batch.batch) + ":" +
                         std::to_string(batch.frames) + "=";
      for (const Row& row : batch.rows) text += std::to_string(row.utterance) + ",";
      batches.push_back(text);
    }
  std::sort(batches.begin(), batches.end());
  return batches;
}

using TranscriptBuffer = std::vector<std::string>;

}  // namespace

TEST_CASE("plan takes the smallest bucket that fits") {
  const Plan plan = make_plan(utterances({500, 501, 1, 1000, 3500}),
                              described({{"", 2, 500}, {"", 2, 1000}, {"", 2, 3500}}), {});
  CHECK((formatted(plan) == TranscriptBuffer{"0:2:500=0,2,", "1:2:1000=3,1,", "2:2:3500=4,"}));
  CHECK((plan.buckets == std::vector<std::size_t>{0, 1, 2}));
  CHECK(plan.jobs.front()[0].frames == 3500);
}

TEST_CASE("plan fills batches of several sizes") {
  const Plan plan = make_plan(utterances(std::vector<std::int64_t>(7, 10)),
                              described({{"", 1, 50}, {"", 4, 50}, {"", 8, 90}}), {});
  CHECK((formatted(plan) ==
         TranscriptBuffer{"0:1:50=4,", "0:1:50=5,", "0:1:50=6,", "1:4:50=0,1,2,3,"}));
  CHECK((plan.buckets == std::vector<std::size_t>{0, 1}));
  const Plan few = make_plan(utterances({10}), described({{"", 4, 50}, {"", 8, 50}}), {});
  CHECK((formatted(few) == TranscriptBuffer{"0:4:50=0,"}));
}

TEST_CASE("plan of open shapes pads to the longest") {
  internal::PlanOptions options;
  options.batch = 2;
  const Plan plan = make_plan(utterances({10, 30, 20}), described({{"", 0, 0}}), options);
  CHECK((formatted(plan) == TranscriptBuffer{"0:1:10=0,", "0:2:30=1,2,"}));
  options.batch = 8;
  const Plan far_apart =
      make_plan(utterances({4, 100, 9, 50, 8}), described({{"", 0, 0}}), options);
  CHECK((formatted(far_apart) == TranscriptBuffer{"0:1:4=0,", "0:2:100=1,3,", "0:2:9=2,4,"}));
  options.batch = 2;
  const Plan mixed =
      make_plan(utterances({10, 300}), described({{"", 1, 50}, {"", 0, 0}}), options);
  CHECK((formatted(mixed) == TranscriptBuffer{"0:1:50=0,", "1:1:300=1,"}));
  CHECK(mixed.split == 0);
}

TEST_CASE("plan keeps batches below the frames that the memory has room for") {
  internal::PlanOptions options;
  options.batch = 8;
  options.most = 250;
  const Plan plan =
      make_plan(utterances({100, 90, 80, 70, 60}), described({{"", 0, 0}}), options);
  CHECK((formatted(plan) == TranscriptBuffer{"0:2:100=0,1,", "0:3:80=2,3,4,"}));
  const Plan fixed = make_plan(utterances({100, 90, 80}), described({{"", 0, 120}}), options);
  CHECK((formatted(fixed) == TranscriptBuffer{"0:1:120=2,", "0:2:120=0,1,"}));
  const Plan closed = make_plan(utterances({100, 90, 80}), described({{"", 3, 120}}), options);
  CHECK((formatted(closed) == TranscriptBuffer{"0:3:120=0,1,2,"}));
  options.longest = 200;
  CHECK(make_plan(utterances({900}), described({{"", 0, 0}}), options).jobs[0].size() > 4);
  CHECK(longest_input(900, described({{"", 0, 0}}), options) == 200);
  CHECK(longest_input(150, described({{"", 0, 0}}), options) == 150);
  CHECK(longest_input(900, described({{"", 1, 300}}), options) == 300);
}

TEST_CASE("plan takes the utterances that are wanted") {
  const Plan plan = make_plan(utterances({10, 20, 30}), described({{"", 0, 0}}), {},
                              [](std::size_t index) { return index != 1; });
  CHECK((formatted(plan) == TranscriptBuffer{"0:1:10=0,", "0:1:30=2,"}));
}

TEST_CASE("plan splits what is too long") {
  internal::PlanOptions options;
  options.overlap = 20;
  const Plan plan = make_plan(utterances({100, 241}), described({{"", 2, 100}}), options);
  CHECK(plan.split == 1);
  CHECK(plan.longest == 100);
  CHECK(plan.jobs.size() == 2);
  CHECK(plan.jobs[0].size() == 2);  // three parts in batches of two
  std::vector<Row> rows = plan.jobs[0][0].rows;
  rows.push_back(plan.jobs[0][1].rows.at(0));
  CHECK(rows[0].start == 0);
  CHECK(rows[1].start == 70);
  CHECK(rows[2].start == 142);
  CHECK(rows[2].frames == 99);
  CHECK(rows[0].parts == 3);
  options.overlap = 99;
  CHECK_THROWS_WITH_AS(
      static_cast<void>(make_plan(utterances({101}), described({{"", 1, 100}}), options)),
      doctest::Contains("--overlap 99"), internal::UsageError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(make_plan(utterances({101}), described({{"", 1, 100}}, 0), {})),
      doctest::Contains("frame_stride"), internal::UsageError);
  options = {};
  options.longest = 50;
  CHECK(make_plan(utterances({51}), described({{"", 0, 0}}), options).split == 1);
}

TEST_CASE("parts cover overlap and join to the whole") {
  std::mt19937 random(1);
  const auto below = [&random](std::int64_t end) {
    return std::uniform_int_distribution<std::int64_t>(0, end - 1)(random);
  };
  for (int trial = 0; trial < 20000; ++trial) {
    const std::int64_t stride = 1 + below(4), longest = stride + below(60);
    const std::int64_t overlap = below(longest - stride + 1), frames = 1 + below(400);
    const auto starts = internal::part_starts(frames, longest, overlap, stride);
    std::vector<internal::Part> parts;
    bool good = starts.front() == 0 && (frames > longest) == (starts.size() > 1);
    for (std::size_t i = 0; i < starts.size(); ++i) {
      const std::int64_t count = std::min(longest, frames - starts[i]);
      good = good && starts[i] % stride == 0 && count > 0;
      if (i > 0)
        good = good && starts[i] > starts[i - 1] && starts[i - 1] + longest - starts[i] >= overlap;
      internal::Part part;
      part.start = starts[i] / stride;
      part.emission.frames = (count + stride - 1) / stride;
      for (std::int64_t t = 0; t < part.emission.frames; ++t)
        part.emission.values.insert(part.emission.values.end(), 2,
                                    static_cast<float>(part.start + t));
      parts.push_back(part);
    }
    good = good && starts.back() + longest >= frames;
    const internal::Emission whole = internal::join(parts, 2);
    good = good && whole.frames == (frames + stride - 1) / stride &&
           whole.values.size() == static_cast<std::size_t>(2 * whole.frames);
    for (std::size_t i = 0; good && i < whole.values.size(); ++i)
      good = whole.values[i] == static_cast<float>(i / 2);
    CHECK(good);
    if (!good) break;
  }
}

TEST_CASE("join takes each frame from where it is farther from the edge") {
  const internal::Part first{0, {6, {1, 1, 1, 1, 1, 1}}}, second{2, {6, {2, 2, 2, 2, 2, 2}}};
  const internal::Emission whole = internal::join({first, second}, 1);
  CHECK((whole.values == std::vector<float>{1, 1, 1, 1, 2, 2, 2, 2}));
  const internal::Part apart{7, {1, {3}}};
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::join({first, apart}, 1)),
                       doctest::Contains("do not meet"), internal::InputError);
}
