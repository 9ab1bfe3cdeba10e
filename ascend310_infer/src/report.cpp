#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "errors.h"
#include "json.h"

namespace infer {
namespace {

constexpr double kPercents[] = {50, 90, 95, 99, 100};

std::string shown(double value, int decimals) {
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
  std::string text = "mean " + shown(mean(values), 1);
  for (const double percent : kPercents)
    text += ", p" + shown(percent, 0) + " " + shown(percentile(values, percent), 1);
  return text;
}

std::string latencies_json(const std::vector<float>& values) {
  std::string text = "{\"mean\": " + shown(mean(values), 3);
  for (const double percent : kPercents)
    text += ", \"p" + shown(percent, 0) + "\": " + shown(percentile(values, percent), 3);
  return text + "}";
}

}  // namespace

Figures collect(Board& board, std::size_t workers, const std::vector<Utterance>& utterances,
                double frame_seconds) {
  Figures figures;
  figures.processes = workers;
  double busy = 0, network = 0;
  for (std::size_t i = 0; i < workers; ++i) {
    const WorkerRecord& record = board.worker(i);
    figures.load_s = std::max(figures.load_s, record.load_s);
    figures.wall_s = std::max(figures.wall_s, record.wall_s);
    figures.peak_mib += static_cast<double>(record.peak_kib) / 1024;
    figures.batches += record.batches;
    busy += record.wall_s;
    network += record.network_s;
  }
  figures.outside = ratio(busy - network, busy);
  for (std::size_t i = 0; i < utterances.size(); ++i) {
    const UtteranceRecord& record = board.utterance(i);
    if (record.state == State::kFailed) ++figures.failed;
    if (record.state == State::kWaiting) ++figures.undone;
    if (record.state != State::kDone) continue;
    ++figures.done;
    figures.audio_s += frame_seconds * static_cast<double>(utterances[i].frames);
    figures.network_ms.push_back(record.network_ms);
    figures.total_ms.push_back(record.total_ms);
  }
  return figures;
}

float percentile(std::vector<float> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
  return values[static_cast<std::size_t>(std::max(1.0, rank)) - 1];
}

std::string figures_text(const Figures& figures) {
  const auto done = static_cast<double>(figures.done);
  std::string text = "engine " + figures.engine + ", device " + figures.device + ", processes " +
                     std::to_string(figures.processes) + "\n";
  // The wording of the model zoo's programs, which scripts look for.
  text += "NN inference cost average time: " + shown(mean(figures.network_ms), 3) +
          " ms of infer_count " + std::to_string(figures.done) + "\n";
  text += shown(ratio(done, figures.wall_s), 2) + " utterances/s (" + std::to_string(figures.done) +
          " in " + shown(figures.wall_s, 2) + " s, " + std::to_string(figures.batches) +
          " batches)\n";
  if (figures.audio_s > 0)
    text += "real-time factor " + shown(ratio(figures.wall_s, figures.audio_s), 4) + " (" +
            shown(figures.audio_s, 1) + " s of audio)\n";
  text += "latency in the network, ms: " + latencies(figures.network_ms) + "\n";
  text += "latency from reading to written, ms: " + latencies(figures.total_ms) + "\n";
  text += "time outside the network: " + shown(100 * figures.outside, 2) + " %\n";
  text += "model load and compilation: " + shown(figures.load_s, 2) + " s\n";
  text += "peak memory: " + shown(figures.peak_mib, 0) + " MiB\n";
  return text;
}

std::string figures_json(const Figures& figures) {
  const auto done = static_cast<double>(figures.done);
  std::string text = "{\n  \"engine\": " + json_text(figures.engine) +
                     ",\n  \"device\": " + json_text(figures.device);
  const auto add = [&text](const char* name, const std::string& value) {
    text += std::string(",\n  \"") + name + "\": " + value;
  };
  add("processes", std::to_string(figures.processes));
  add("done", std::to_string(figures.done));
  add("failed", std::to_string(figures.failed));
  add("undone", std::to_string(figures.undone));
  add("skipped", std::to_string(figures.skipped));
  add("split", std::to_string(figures.split));
  add("batches", std::to_string(figures.batches));
  add("utterances_per_second", shown(ratio(done, figures.wall_s), 4));
  add("audio_seconds", shown(figures.audio_s, 3));
  add("real_time_factor", shown(ratio(figures.wall_s, figures.audio_s), 6));
  add("network_ms", latencies_json(figures.network_ms));
  add("total_ms", latencies_json(figures.total_ms));
  add("outside_network", shown(figures.outside, 5));
  add("load_seconds", shown(figures.load_s, 3));
  add("wall_seconds", shown(figures.wall_s, 3));
  add("peak_mib", shown(figures.peak_mib, 1));
  return text + "\n}\n";
}

void write_figures(const fs::path& folder, const Figures& figures) {
  for (const auto& [ending, text] :
       {std::pair{".txt", figures_text(figures)}, std::pair{".json", figures_json(figures)}}) {
    const fs::path path = folder / (std::string("test_perform_static") + ending);
    write_atomically(path, text.data(), text.size());
  }
}

}  // namespace infer
