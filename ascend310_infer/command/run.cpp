#include "run.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <sstream>
#include <thread>

#include "description.h"
#include "engine.h"
#include "errors.h"
#include "feature_source.h"
#include "files.h"
#include "memory.h"
#include "plan.h"
#include "recordings.h"
#include "result_writer.h"
#include "run_state.h"
#include "statistics.h"
#include "stream_command.h"
#include "utterance_list.h"
#include "worker.h"

namespace speech::internal {
namespace {

RunState* g_state = nullptr;  // for the signal handler

extern "C" void on_signal(int number) { g_state->stop(number); }

// Handles each signal once, so that a second Ctrl-C ends the program immediately; files are whole
// even then.
void catch_signals() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of `write`, like a full disk
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw UsageError(path.string() + ": cannot be made (" + error.message() + ")");
}

UtteranceList listing_of(const Options& options, std::int64_t dimension) {
  return options.index.empty() ? list_folders(options.features, options.lengths, dimension)
                               : list_index(options.index, dimension);
}

// Describes what results depend on besides their features: model, device, engine and options.
// Results with another description are not reused.
std::string origin_of(const Options& options, const Description& description,
                      const std::string& target) {
  std::ostringstream origin;
  for (const Bucket& bucket : description.buckets)
    origin << bucket.file.filename().string() << ", changed " << modified_ns(bucket.file) << "\n";
  origin << description.path.string() << ", changed " << modified_ns(description.path) << "\n"
         << "on " << target << " " << options.engine << " " << options.precision << ", longest "
         << options.longest << ", overlap " << options.overlap << "\n";
  return origin.str();
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Writes `origin` beside the results. A failure is ignored: the next run only repeats everything.
void keep(const fs::path& note, const std::string& origin) {
  try {
    write_atomically(note, origin.data(), origin.size());
  } catch (const std::exception&) {
  }
}

// Removes results of earlier runs, so that they cannot be taken for results of this one.
void remove_stale(const UtteranceList& listing, const fs::path& results) {
  const auto remove = [&results](const std::string& name) {
    std::error_code ignored;  // writing the new result reports it
    for (const int which : {0, 1}) fs::remove(result_file(results, name, which), ignored);
  };
  for (const Utterance& utterance : listing.accepted) remove(utterance.name);
  for (const Rejected& rejected : listing.rejected)
    if (rejected.name.find('/') == std::string::npos)
      remove(rejected.name);  // other names were never written
}

// Drops utterances whose results are complete and newer than `since`, when the current model and
// options were first used. Returns how many were dropped.
std::size_t drop_finished(std::vector<Utterance>& utterances, const Description& description,
                          const fs::path& results, std::int64_t since) {
  const std::size_t before = utterances.size();
  const auto done = [&](const Utterance& utterance) {
    return finished(results, utterance.name, description.labels,
                    std::max(since, modified_ns(utterance.file)));
  };
  utterances.erase(std::remove_if(utterances.begin(), utterances.end(), done), utterances.end());
  return before - utterances.size();
}

void report_split(const Plan& plan, const Description& description, std::ostream& out) {
  if (plan.split > 0)
    out << plan.split << (plan.split == 1 ? " utterance is" : " utterances are")
        << " longer than the longest input of the network (" << plan.longest << " "
        << description.unit() << "): split into parts that share " << plan.overlap << " "
        << description.unit() << " or more, and joined\n";
}

// What a run is told, and what follows from it.
struct Setup {
  const Options& options;
  const Description& description;
  const std::string& target;
  const EngineKind& kind;
};

struct WorkerPool {
  const EngineKind& kind;
  std::vector<EngineOptions> engines;  // one for each worker
};

WorkerPool make_pool(const Setup& setup, std::size_t jobs) {
  const Options& options = setup.options;
  const std::string& target = setup.target;
  WorkerPool pool{setup.kind, {}};
  // One worker on each device before a second one on any, so that few jobs use all devices.
  for (int instance = 0; instance < options.instances; ++instance)
    for (const int device : options.devices)
      if (pool.engines.size() < jobs)
        pool.engines.push_back(
            {target, device, options.threads, options.precision, options.python});
  for (EngineOptions& engine : pool.engines)
    engine.instances = static_cast<int>(pool.engines.size());
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  if (target == "CPU" && options.threads == 0 && pool.engines.size() > 1)
    for (EngineOptions& engine : pool.engines)
      engine.threads = static_cast<int>(std::max<std::size_t>(1, cores / pool.engines.size()));
  return pool;
}

// Runs the work of one worker. An error stops all of them.
void work_alone(std::size_t index, const WorkerPool& pool, const Work& work, ResultWriter& writer,
                RunState& state) {
  try {
    const auto make = [&] { return pool.kind.make(pool.engines[index]); };
    run_worker(index, make, work, writer, state);
  } catch (const std::exception& error) {
    if (state.stop(RunState::kRefused)) std::cerr << "error: " << error.what() << std::endl;
  }
}

using WriterOf = std::function<ResultWriter&(std::size_t worker)>;

// Says now and then how many utterances are done, while it lives. Made after the processes: they
// must not be forked beside a second thread.
class Progress {
 public:
  Progress(RunState& state, std::size_t utterances, std::ostream& notices)
      : thread_([this, &state, utterances, &notices] {
          std::unique_lock lock(mutex_);
          while (!ended_.wait_for(lock, kEvery, [this] { return end_; })) {
            std::size_t finished = 0;
            for (std::size_t i = 0; i < utterances; ++i)
              if (state.utterance(i).state != State::kWaiting) ++finished;
            notices << (state.all_arrived() ? std::to_string(finished) + " of " +
                                                  std::to_string(utterances) + " utterances"
                                            : std::string("still loading the model"))
                    << std::endl;
          }
        }) {}
  ~Progress() {
    {
      const std::lock_guard lock(mutex_);
      end_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }

 private:
  static constexpr std::chrono::seconds kEvery{30};
  bool end_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::thread thread_;
};

// Starts the processes of a pool. They end with this one, however it ends: their files are whole.
std::vector<pid_t> start_processes(const WorkerPool& pool, const Work& work, const WriterOf& writer,
                                   RunState& state) {
  std::cout.flush();
  const pid_t parent = ::getpid();
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < pool.engines.size(); ++i) {
    const pid_t child = ::fork();
    if (child < 0) {
      state.stop(RunState::kRefused);
      std::cerr << "error: no further process can be started\n";
      break;
    }
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == parent) work_alone(i, pool, work, writer(i), state);
      std::cout.flush();
      ::_exit(0);
    }
    children.push_back(child);
  }
  return children;
}

// Reports a process that did not end by itself, and the utterances that its network worked on.
void report_death(std::size_t process, int status, const WorkerPool& pool,
                  const std::vector<Utterance>& utterances, RunState& state) {
  const std::string how =
      WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) +
                                " (9: often for want of memory)"
                          : "its libraries, with exit code " + std::to_string(WEXITSTATUS(status));
  std::cerr << "error: the process on device " << pool.engines[process].device << " was ended by "
            << how << std::endl;
  for (std::size_t i = 0; i < utterances.size(); ++i) {
    UtteranceRecord& record = state.utterance(i);
    State waiting = State::kWaiting;
    if (record.worker != static_cast<int>(process)) continue;
    record.worker = -1;
    if (record.state.compare_exchange_strong(waiting, State::kFailed))
      report_failure(utterances[i].name, "the process that recognized it was ended by " + how);
  }
}

// Works in processes of their own, also if it is one alone: its end, for want of memory, must not
// take along what is done. Returns whether each ended by itself.
bool work_together(const WorkerPool& pool, const Work& work, const WriterOf& writer,
                   RunState& state, std::ostream& notices) {
  const std::vector<pid_t> children = start_processes(pool, work, writer, state);
  const Progress progress(state, work.utterances.size(), notices);
  bool complete = true;
  for (std::size_t left = children.size(); left > 0;) {
    int status = 0;
    const pid_t child = ::waitpid(-1, &status, 0);
    if (child < 0 && errno == EINTR) continue;
    if (child < 0) break;
    --left;
    // Our processes exit with 0; a driver library may end one by itself.
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    complete = false;
    const auto process = std::find(children.begin(), children.end(), child) - children.begin();
    report_death(static_cast<std::size_t>(process), status, pool, work.utterances, state);
    state.arrive();  // the others may be waiting for it to be ready
  }
  return complete;
}

// Works in threads of this process.
void work_in_threads(const WorkerPool& pool, const Work& work, const WriterOf& writer,
                     RunState& state, std::ostream& notices) {
  const Progress progress(state, work.utterances.size(), notices);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < pool.engines.size(); ++i)
    threads.emplace_back([&, i] { work_alone(i, pool, work, writer(i), state); });
  for (std::thread& thread : threads) thread.join();
}

struct RunOutcome {
  Statistics statistics;
  int stopped = 0;  // RunState::stopped()
};

std::size_t workers_of(const Options& options) {
  return options.devices.size() * static_cast<std::size_t>(options.instances);
}

// Recognizes the accepted utterances of a list. Those that a dying process had taken, but did not
// work on, are planned again.
RunOutcome work_on(const Setup& setup, const PlanOptions& plan_options,
                   const UtteranceList& listing, const FeatureSource& source,
                   const WriterOf& writer, std::ostream& notices) {
  const Description& description = setup.description;
  const std::vector<Utterance>& utterances = listing.accepted;
  RunState state(workers_of(setup.options), utterances.size(), !setup.kind.in_threads);
  const auto is_waiting = [&state](std::size_t index) {
    return state.utterance(index).state == State::kWaiting;
  };
  std::size_t waiting = utterances.size(), workers = 0, split = 0;
  g_state = &state;
  catch_signals();
  for (bool first = true, again = true; again; first = false) {
    const Plan plan = make_plan(utterances, description, plan_options, is_waiting);
    if (first) report_split(plan, description, notices);
    if (first) split = plan.split;
    const WorkerPool pool = make_pool(setup, plan.jobs.size());
    workers = std::max(workers, pool.engines.size());
    state.begin(pool.engines.size());
    const Work work{description, utterances, plan, source};
    bool complete = true;
    if (setup.kind.in_threads)
      work_in_threads(pool, work, writer, state, notices);
    else
      complete = work_together(pool, work, writer, state, notices);
    std::size_t left = 0;
    for (std::size_t i = 0; i < utterances.size(); ++i) left += is_waiting(i) ? 1 : 0;
    again = !complete && left > 0 && left < waiting && state.stopped() == 0;
    waiting = left;
  }

  RunOutcome outcome{
      collect(state, workers, !setup.kind.in_threads, utterances, description.frame_seconds),
      state.stopped()};
  outcome.statistics.engine = setup.kind.name;
  outcome.statistics.device = setup.target;
  outcome.statistics.split = split;
  outcome.statistics.failed += listing.rejected.size();
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  g_state = nullptr;
  return outcome;
}

// How batches are planned. Utterances that need more memory than there is are rejected.
PlanOptions plan_within_memory(const Setup& setup, UtteranceList& listing) {
  const Options& options = setup.options;
  const Description& description = setup.description;
  const std::int64_t hop = description.hop;  // the options and the budget count feature frames
  PlanOptions plan{options.batch, options.longest * hop,
                   options.overlap < 0 ? -1 : options.overlap * hop};
  const auto budget = memory_budget(description, setup.target, options.instances);
  if (!budget) return plan;
  plan.most = std::max<std::int64_t>(1, budget->most_frames() * hop);
  const auto rejected = [&](const Utterance& utterance) {
    const std::int64_t frames = longest_input(utterance.frames, description, plan) / hop;
    if (frames <= budget->most_frames()) return false;
    const double seconds = description.frame_seconds * static_cast<double>(hop);
    listing.rejected.push_back({utterance.name, budget->reason(frames, seconds, "--max_frames")});
    return true;
  };
  auto& accepted = listing.accepted;
  accepted.erase(std::remove_if(accepted.begin(), accepted.end(), rejected), accepted.end());
  return plan;
}

int exit_code(const RunOutcome& outcome) {
  if (outcome.stopped == RunState::kRefused) return 2;
  if (outcome.stopped > 0) return 128 + outcome.stopped;
  return outcome.statistics.failed + outcome.statistics.undone > 0 ? 1 : 0;
}

void report_rejected(const UtteranceList& listing) {
  for (const Rejected& rejected : listing.rejected) report_failure(rejected.name, rejected.reason);
}

// ---- features

int infer_features(const Setup& setup) {
  const Options& options = setup.options;
  const Description& description = setup.description;
  const std::string& target = setup.target;
  make_folder(options.results);
  make_folder(options.times);
  UtteranceList listing = listing_of(options, description.dimension);
  const PlanOptions plan = plan_within_memory(setup, listing);
  report_rejected(listing);
  fs::path note = (options.results / "").parent_path();
  note += "_model.txt";  // beside the folder, which holds only results
  const std::string origin = origin_of(options, description, target);
  const bool same = content_of(note) == origin;
  const std::size_t skipped =
      options.force || !same
          ? 0
          : drop_finished(listing.accepted, description, options.results, modified_ns(note));
  remove_stale(listing, options.results);
  if (!same) keep(note, origin);
  const FeatureFiles source(description.dimension);
  LogProbFiles writer(options.results);
  std::cout << listing.accepted.size() << " utterances to recognize on " << target
            << ", after the model is loaded" << std::endl;
  RunOutcome outcome = work_on(
      setup, plan, listing, source, [&writer](std::size_t) -> ResultWriter& { return writer; },
      std::cout);

  Statistics& statistics = outcome.statistics;
  statistics.skipped = skipped;
  std::cout << statistics.done << " done, " << statistics.failed << " failed, " << statistics.undone
            << " not done, " << statistics.skipped << " were done before\n";
  if (statistics.done > 0) {
    write_statistics(options.times, statistics);
    std::cout << statistics_text(statistics) << "figures are in " << options.times.string() << "\n";
  }
  if (outcome.stopped == RunState::kUnwritable)
    std::cerr << "error: stopped, for results cannot be written\n";
  if (outcome.stopped > 0)
    std::cerr << "stopped by signal " << outcome.stopped << "; the same command goes on\n";
  return exit_code(outcome);
}

// ---- recordings

int transcribe(const Setup& setup) {
  const Options& options = setup.options;
  const Description& description = setup.description;
  std::vector<std::string> paths = options.audio;
  if (!options.audio_list.empty())
    for (std::string& path : read_audio_list(options.audio_list)) paths.push_back(std::move(path));
  if (options.json && description.frame_stride == 0)
    throw UsageError(description.path.string() +
                     ": names no \"frame_stride\", without which words have no times; export the "
                     "model anew");
  if (!options.times.empty()) make_folder(options.times);
  Recordings recordings = open_recordings(paths, description);
  const PlanOptions plan = plan_within_memory(setup, recordings.list);
  report_rejected(recordings.list);
  const TextStyle style{options.json, paths.size() == 1 && options.audio_list.empty(),
                        description.frame_seconds * static_cast<double>(description.frame_stride),
                        description.frame_seconds};
  std::vector<std::string> lines(recordings.list.accepted.size());
  TranscriptLines own(description.vocabulary, style, lines);
  std::vector<std::unique_ptr<TranscriptBuffer>> texts;  // of processes
  for (std::size_t i = 0; i < workers_of(options) && !setup.kind.in_threads; ++i)
    texts.push_back(std::make_unique<TranscriptBuffer>(description.vocabulary, style));
  const RunOutcome outcome = work_on(
      setup, plan, recordings.list, *recordings.source,
      [&](std::size_t worker) -> ResultWriter& {
        if (setup.kind.in_threads) return own;
        return *texts[worker];
      },
      std::cerr);
  for (const auto& some : texts) some->collect(lines);
  for (const std::string& line : lines) std::cout << line;
  if (!options.times.empty() && outcome.statistics.done > 0)
    write_statistics(options.times, outcome.statistics);
  if (outcome.stopped > 0)
    std::cerr << "stopped by signal " << outcome.stopped << "; " << outcome.statistics.undone
              << " recordings are not done\n";
  if (!std::cout.flush()) throw OutputError("standard output: texts cannot be written");
  return exit_code(outcome);
}

}  // namespace

int run(const Options& options) {
  if (options.stream) return recognize_stream(options);
  const Description description = describe_model(options.model);
  const std::string target = !options.target.empty()          ? options.target
                             : description.device == "Ascend" ? "Ascend"
                                                              : "CPU";
  const std::vector<std::string> notes = check_models(description, target);
  const EngineKind& kind = choose_engine(options.engine, target, description.buckets.front().file);
  for (const std::string& note : notes) std::cerr << "note: " << note << "\n";
  const Setup setup{options, description, target, kind};
  return options.transcribes() ? transcribe(setup) : infer_features(setup);
}

}  // namespace speech::internal
