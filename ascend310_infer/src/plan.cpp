#include "plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "errors.h"

namespace speech::internal {
namespace {

// Returns the first bucket that holds `frames` frames. There is one, because longer utterances are
// split. Buckets that differ only in batch size are neighbours.
std::size_t smallest_bucket(const std::vector<Bucket>& buckets, std::int64_t frames) {
  std::size_t index = 0;
  while (buckets[index].frames != 0 && buckets[index].frames < frames) ++index;
  return index;
}

// Among buckets with as many frames as `first`, returns the one with the largest batch that `count`
// rows fill, or else the smallest batch.
std::size_t fitting_batch(const std::vector<Bucket>& buckets, std::size_t first,
                          std::int64_t count) {
  std::size_t best = first;
  for (std::size_t i = first; i < buckets.size() && buckets[i].frames == buckets[first].frames; ++i)
    if (buckets[i].batch <= count && (buckets[best].batch != 0 || buckets[i].batch == 0)) best = i;
  return best;
}

// Packs rows of one bucket, longest first, into batches.
void pack(const std::vector<Row>& rows, std::size_t first, const std::vector<Bucket>& buckets,
          const PlanOptions& options, Job& job) {
  for (std::size_t at = 0; at < rows.size();) {
    const auto left = static_cast<std::int64_t>(rows.size() - at);
    PlannedBatch batch;
    batch.bucket = fitting_batch(buckets, first, left);
    const Bucket& bucket = buckets[batch.bucket];
    const std::int64_t frames = bucket.frames != 0 ? bucket.frames : rows[at].frames;
    std::int64_t count = std::min(left, bucket.batch != 0 ? bucket.batch : options.batch);
    if (bucket.batch == 0 && options.most > 0)
      count = std::clamp<std::int64_t>(options.most / frames, 1, count);
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(at);
    if (bucket.batch == 0 && bucket.frames == 0)  // one long row would pad all others
      count = std::find_if(begin, begin + count,
                           [&](const Row& row) { return 2 * row.frames < begin->frames; }) -
              begin;
    batch.rows.assign(begin, begin + count);
    batch.batch = bucket.batch != 0 ? bucket.batch : count;
    batch.frames = frames;
    job.push_back(std::move(batch));
    at += static_cast<std::size_t>(count);
  }
}

std::int64_t weight(const Job& job) {
  return std::accumulate(
      job.begin(), job.end(), std::int64_t{0},
      [](std::int64_t sum, const PlannedBatch& batch) { return sum + batch.batch * batch.frames; });
}

// Frames of the longest part; 0: any.
std::int64_t longest_part(const Description& description, const PlanOptions& options) {
  const std::int64_t fixed = description.buckets.back().frames;
  return fixed != 0 ? fixed : options.longest;
}

}  // namespace

std::int64_t longest_input(std::int64_t frames, const Description& description,
                           const PlanOptions& options) {
  const std::int64_t longest = longest_part(description, options);
  return longest != 0 ? std::min(frames, longest) : frames;
}

std::vector<std::int64_t> part_starts(std::int64_t frames, std::int64_t longest,
                                      std::int64_t overlap, std::int64_t stride) {
  if (frames <= longest) return {0};
  // The last start is rounded up to the stride, so that the last part is not too long. No two
  // starts are farther apart than `step`, itself a multiple of the stride.
  const std::int64_t last = (frames - longest + stride - 1) / stride * stride;
  const std::int64_t step = (longest - overlap) / stride * stride;
  const std::int64_t steps = (last + step - 1) / step;
  std::vector<std::int64_t> starts;
  for (std::int64_t i = 0; i <= steps; ++i) starts.push_back(last / stride * i / steps * stride);
  return starts;
}

Plan make_plan(const std::vector<Utterance>& utterances, const Description& description,
               const PlanOptions& options, const std::function<bool(std::size_t)>& wanted) {
  const std::vector<Bucket>& buckets = description.buckets;
  Plan plan;
  plan.longest = longest_part(description, options);
  plan.overlap = options.overlap >= 0 ? options.overlap : plan.longest / 5;

  std::map<std::size_t, std::vector<Row>> whole;  // by the first bucket of its frames
  for (std::size_t i = 0; i < utterances.size(); ++i) {
    if (wanted && !wanted(i)) continue;
    const std::int64_t frames = utterances[i].frames;
    if (plan.longest == 0 || frames <= plan.longest) {
      whole[smallest_bucket(buckets, frames)].push_back({i, 0, frames, 1});
      continue;
    }
    const std::int64_t stride = description.frame_stride;
    if (description.trims_silence())
      throw UsageError(utterances[i].name + ": has " + std::to_string(frames) +
                       " samples, and parts of at most " + std::to_string(plan.longest) +
                       " were asked for, but this network leaves out silence, so that its parts "
                       "cannot be joined; export it with --input features");
    if (stride == 0)
      throw UsageError(utterances[i].name + ": has " + std::to_string(frames) + " " +
                       description.unit() + ", the model takes " + std::to_string(plan.longest) +
                       ", and to split it " + description.path.filename().string() +
                       " must name a \"frame_stride\"; export the model anew");
    if (plan.longest - plan.overlap < stride)
      throw UsageError("--overlap " + std::to_string(plan.overlap) +
                       ": leaves nothing of parts of " + std::to_string(plan.longest) + " " +
                       description.unit());
    const auto starts = part_starts(frames, plan.longest, plan.overlap, stride);
    std::vector<Row> rows;
    for (const std::int64_t start : starts)
      rows.push_back({i, start, std::min(plan.longest, frames - start), starts.size()});
    Job job;
    pack(rows, smallest_bucket(buckets, plan.longest), buckets, options, job);
    plan.jobs.push_back(std::move(job));
    ++plan.split;
  }
  for (auto& [bucket, rows] : whole) {
    std::stable_sort(rows.begin(), rows.end(),
                     [](const Row& a, const Row& b) { return a.frames > b.frames; });
    Job batches;
    pack(rows, bucket, buckets, options, batches);
    for (PlannedBatch& batch : batches) plan.jobs.push_back({std::move(batch)});
  }
  std::set<std::size_t> used;
  for (const Job& job : plan.jobs)
    for (const PlannedBatch& batch : job) used.insert(batch.bucket);
  plan.buckets.assign(used.begin(), used.end());
  // The largest jobs first: lack of memory shows at once, and the processes end at about the same
  // time.
  std::stable_sort(plan.jobs.begin(), plan.jobs.end(),
                   [](const Job& a, const Job& b) { return weight(a) > weight(b); });
  return plan;
}

}  // namespace speech::internal
