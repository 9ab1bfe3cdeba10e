#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "errors.h"
#include "json.h"

namespace speech::internal {
namespace {

constexpr double kPercents[] = {50, 90, 95, 99, 100};

std::string formatted(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

double mean(const std::vector<float>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double ratio(double above, double below) { return below > 0 ? above / below : 0; }

std::string latencies(const std::vector<float>& values) {
  std::string text = "mean " + formatted(mean(values), 1);
  for (const double percent : kPercents)
    text += ", p" + formatted(percent, 0) + " " + formatted(percentile(values, percent), 1);
  return text;
}

std::string latencies_json(const std::vector<float>& values) {
  std::string text = "{\"mean\": " + formatted(mean(values), 3);
  for (const double percent : kPercents)
    text += ", \"p" + formatted(percent, 0) + "\": " + formatted(percentile(values, percent), 3);
  return text + "}";
}

}  // namespace

Statistics collect(RunState& state, std::size_t workers, bool processes,
                   const std::vector<Utterance>& utterances, double frame_seconds) {
  Statistics statistics;
  statistics.processes = processes ? workers : 1;
  statistics.instances = workers;
  double busy = 0, network = 0;
  for (std::size_t i = 0; i < workers; ++i) {
    const WorkerRecord& record = state.worker(i);
    statistics.load_s = std::max(statistics.load_s, record.load_s);
    statistics.wall_s = std::max(statistics.wall_s, record.wall_s);
    const double peak_mib = static_cast<double>(record.peak_kib) / 1024;
    statistics.peak_mib =
        processes ? statistics.peak_mib + peak_mib : std::max(statistics.peak_mib, peak_mib);
    statistics.batches += record.batches;
    busy += record.wall_s;
    network += record.network_s;
  }
  statistics.outside = ratio(busy - network, busy);
  for (std::size_t i = 0; i < utterances.size(); ++i) {
    const UtteranceRecord& record = state.utterance(i);
    if (record.state == State::kFailed) ++statistics.failed;
    if (record.state == State::kWaiting) ++statistics.undone;
    if (record.state != State::kDone) continue;
    ++statistics.done;
    statistics.audio_s += frame_seconds * static_cast<double>(utterances[i].frames);
    statistics.network_ms.push_back(record.network_ms);
    statistics.total_ms.push_back(record.total_ms);
  }
  return statistics;
}

float percentile(std::vector<float> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
  return values[static_cast<std::size_t>(std::max(1.0, rank)) - 1];
}

std::string statistics_text(const Statistics& statistics) {
  const auto done = static_cast<double>(statistics.done);
  std::string text = "engine " + statistics.engine + ", device " + statistics.device +
                     ", processes " + std::to_string(statistics.processes) +
                     (statistics.instances == statistics.processes
                          ? ""
                          : ", instances " + std::to_string(statistics.instances)) +
                     "\n";
  // The wording of the model zoo's programs, which scripts look for.
  text += "NN inference cost average time: " + formatted(mean(statistics.network_ms), 3) +
          " ms of infer_count " + std::to_string(statistics.done) + "\n";
  text += formatted(ratio(done, statistics.wall_s), 2) + " utterances/s (" +
          std::to_string(statistics.done) + " in " + formatted(statistics.wall_s, 2) + " s, " +
          std::to_string(statistics.batches) + " batches)\n";
  if (statistics.audio_s > 0)
    text += "real-time factor " + formatted(ratio(statistics.wall_s, statistics.audio_s), 4) +
            " (" + formatted(statistics.audio_s, 1) + " s of audio)\n";
  text += "latency in the network, ms: " + latencies(statistics.network_ms) + "\n";
  text += "latency from reading to written, ms: " + latencies(statistics.total_ms) + "\n";
  text += "time outside the network: " + formatted(100 * statistics.outside, 2) + " %\n";
  text += "model load and compilation: " + formatted(statistics.load_s, 2) + " s\n";
  text += "peak memory: " + formatted(statistics.peak_mib, 0) + " MiB\n";
  return text;
}

std::string statistics_json(const Statistics& statistics) {
  const auto done = static_cast<double>(statistics.done);
  std::string text = "{\n  \"engine\": " + json_text(statistics.engine) +
                     ",\n  \"device\": " + json_text(statistics.device);
  const auto add = [&text](const char* name, const std::string& value) {
    text += std::string(",\n  \"") + name + "\": " + value;
  };
  add("processes", std::to_string(statistics.processes));
  add("instances", std::to_string(statistics.instances));
  add("done", std::to_string(statistics.done));
  add("failed", std::to_string(statistics.failed));
  add("undone", std::to_string(statistics.undone));
  add("skipped", std::to_string(statistics.skipped));
  add("split", std::to_string(statistics.split));
  add("batches", std::to_string(statistics.batches));
  add("utterances_per_second", formatted(ratio(done, statistics.wall_s), 4));
  add("audio_seconds", formatted(statistics.audio_s, 3));
  add("real_time_factor", formatted(ratio(statistics.wall_s, statistics.audio_s), 6));
  add("network_ms", latencies_json(statistics.network_ms));
  add("total_ms", latencies_json(statistics.total_ms));
  add("outside_network", formatted(statistics.outside, 5));
  add("load_seconds", formatted(statistics.load_s, 3));
  add("wall_seconds", formatted(statistics.wall_s, 3));
  add("peak_mib", formatted(statistics.peak_mib, 1));
  return text + "\n}\n";
}

void write_statistics(const fs::path& folder, const Statistics& statistics) {
  for (const auto& [ending, text] : {std::pair{".txt", statistics_text(statistics)},
                                     std::pair{".json", statistics_json(statistics)}}) {
    const fs::path path = folder / (std::string("test_perform_static") + ending);
    write_atomically(path, text.data(), text.size());
  }
}

}  // namespace speech::internal
