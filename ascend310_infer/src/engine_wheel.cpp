// The MindSpore wheel of a Python environment, embedded: MindIR files on a plain CPU.
//
// The Python is the one that the program was built with, or that of --python: its executable is
// given to the interpreter, which then finds the environment's packages by itself.

#include <pybind11/embed.h>
#include <pybind11/numpy.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <thread>

#include "engine.h"
#include "errors.h"

namespace py = pybind11;

namespace speech::internal {
namespace {

void check(const PyStatus& status) {
  if (PyStatus_Exception(status) != 0)
    throw UsageError(std::string("Python does not start: ") +
                     (status.err_msg != nullptr ? status.err_msg : "no reason given"));
}

// The last line of a Python error, or the first one that says something.
std::string reason(const py::error_already_set& error) {
  const std::string text = py::str(error.value());
  const auto start = text.find_first_not_of(" \n-");
  if (start == std::string::npos) return py::str(error.type().attr("__name__"));
  return text.substr(start, text.find('\n', start) - start);
}

// Starts the interpreter and leaves its lock free. Throws UsageError.
PyThreadState* start_interpreter(const std::string& executable) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.parse_argv = 0;
  config.install_signal_handlers = 0;  // the program has its own
  try {
    check(PyConfig_SetBytesString(&config, &config.program_name, executable.c_str()));
    check(PyConfig_SetBytesString(&config, &config.executable, executable.c_str()));
    check(Py_InitializeFromConfig(&config));
  } catch (...) {
    PyConfig_Clear(&config);
    throw;
  }
  PyConfig_Clear(&config);
  return PyEval_SaveThread();
}

// oneDNN in the MindSpore 2.10 wheel computes convolutions with its reference kernel where it sees
// AVX-512, a hundred times slower than with AVX2. It reads this variable once.
constexpr const char* kInstructions = "ONEDNN_MAX_CPU_ISA";

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") != 0;
#else
  return false;
#endif
}

// Whether a model has convolutions of MindSpore's. Those that export.py writes for a CPU with
// AVX-512 have matrix products instead; those for any device have convolutions.
bool uses_convolutions(const Description& description) {
  const auto convolves = [&description](const Bucket& bucket) {
    if (!bucket.graph) return description.device == "any";  // of an earlier export.py
    const auto& operators = bucket.graph->operators;
    return std::any_of(operators.begin(), operators.end(), [](const std::string& name) {
      return name.find("Conv") != std::string::npos;
    });
  };
  return std::any_of(description.buckets.begin(), description.buckets.end(), convolves);
}

// The Python of this process and its MindSpore. All of it runs in one thread: MindSpore keeps
// settings by thread, and Python takes the thread that starts it for its main one. Engines of other
// threads hand their work over and wait, so that they take turns.
class Python {
 public:
  // The one of this process. It is never destroyed, for its thread waits until the process ends.
  static Python& get() {
    static auto* const python = new Python;
    return *python;
  }

  // Runs `task` in the thread of Python, with the lock of the interpreter; throws what it throws,
  // and std::runtime_error for a Python error.
  void run(const std::function<void()>& task) {
    std::optional<py::gil_scoped_release> released;  // of a caller that is itself embedded
    if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) released.emplace();
    std::packaged_task<void()> job([&] {
      if (Py_IsInitialized() == 0) return task();  // it is about to start the interpreter
      const py::gil_scoped_acquire lock;
      guarded(task);
    });
    std::future<void> done = job.get_future();
    add(std::move(job));
    done.get();
  }

  // Starts Python and MindSpore on the first call; `convolves`: for a model with convolutions of
  // MindSpore's. Throws UsageError, also where a later call wants another Python than the one that
  // runs, or convolutions that this one is too slow for.
  void start(const std::string& executable, int threads, bool convolves) {
    run([&] {
      if (started_.empty()) {
        // What the Python package sets before it imports mindspore; a user's own setting wins.
        if (convolves) ::setenv(kInstructions, "AVX2", 0);
        ::setenv("GLOG_v", "3", 0);
        ::setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0", 0);
        if (threads > 0) ::setenv("OMP_NUM_THREADS", std::to_string(threads).c_str(), 0);
        if (Py_IsInitialized() == 0) state_ = start_interpreter(executable);
        const py::gil_scoped_acquire lock;
        import_mindspore(executable, threads);
        started_ = executable;
      }
      if (started_ != executable)
        throw UsageError(executable + ": this process runs " + started_ +
                         " already; all its recognizers use one Python");
      if (convolves && has_avx512() && std::getenv(kInstructions) == nullptr)
        throw UsageError(
            std::string("this process runs MindSpore with AVX-512 already, with which the "
                        "convolutions of this model take minutes: set ") +
            kInstructions + "=AVX2 before it starts, or load this model first");
    });
  }

  // Has Python end before the static objects that exist now. MindSpore makes some of its own when a
  // network runs first, and crashes where the process ends them before Python: call it after that.
  void finish_before_exit() {
    if (state_ != nullptr) std::atexit([] { Python::get().finish(); });
  }

  // Whether Python has ended, with the process: no Python object may be touched any more.
  bool finished() const { return finished_; }

  // Of MindSpore; valid in a task.
  const py::object& mindspore() const { return *mindspore_; }

 private:
  Python() {
    std::thread([this] { work(); }).detach();
  }

  // A Python error must not leave its thread: it belongs to the interpreter.
  static void guarded(const std::function<void()>& task) {
    try {
      task();
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(reason(error));
    }
  }

  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      added_.wait(lock, [this] { return !jobs_.empty(); });
      std::packaged_task<void()> job = std::move(jobs_.front());
      jobs_.pop();
      lock.unlock();
      job();
    }
  }

  // Ends the interpreter that `start` started.
  void finish() {
    if (finished_) return;
    std::packaged_task<void()> job([this] {
      PyEval_RestoreThread(state_);
      Py_FinalizeEx();
      finished_ = true;
    });
    std::future<void> done = job.get_future();
    add(std::move(job));
    done.get();
  }

  void add(std::packaged_task<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push(std::move(job));
    }
    added_.notify_one();
  }

  void import_mindspore(const std::string& executable, int threads) {
    try {
      py::object mindspore = py::module_::import("mindspore");
      py::dict context;
      context["mode"] = mindspore.attr("GRAPH_MODE");
      if (threads > 0) context["runtime_num_threads"] = threads;
      mindspore.attr("set_context")(**context);
      mindspore.attr("set_device")("CPU");
      mindspore_ = new py::object(std::move(mindspore));
    } catch (const py::error_already_set& error) {
      throw UsageError(executable + " has no MindSpore that starts: " + reason(error));
    }
  }

  std::atomic<bool> finished_{false};
  PyThreadState* state_ = nullptr;  // of its thread, where `start` started it
  std::mutex mutex_;
  std::condition_variable added_;
  std::queue<std::packaged_task<void()>> jobs_;
  std::string started_;                    // the executable; of the thread alone, as what follows
  const py::object* mindspore_ = nullptr;  // never destroyed
};

class WheelEngine : public Engine {
 public:
  explicit WheelEngine(const EngineOptions& options)
      : options_(options), executable_(options.python.empty() ? WHEEL_PYTHON : options.python) {}

  ~WheelEngine() override {
    if (Python::get().finished())  // a recognizer that outlives main
      for (auto& [bucket, cell] : cells_) cell.release();
    else if (!cells_.empty())
      Python::get().run([this] { cells_.clear(); });
  }

  void load(const Description& description, const std::vector<std::size_t>& buckets) override {
    if (options_.device != 0)
      throw UsageError("device " + std::to_string(options_.device) +
                       " is not there: a CPU has device 0 alone; see --instances");
    Python::get().start(executable_, options_.threads, uses_convolutions(description));
    for (const std::size_t index : buckets) {
      const Bucket& bucket = description.buckets[index];
      try {
        Python::get().run([&] { make_ready(description.dimension, index, bucket); });
      } catch (const std::runtime_error& error) {
        throw UsageError(bucket.file.string() + ": MindSpore cannot run it: " + error.what());
      }
    }
    Python::get().finish_before_exit();
  }

  void run(std::size_t bucket, const Input& input, Output& output) override {
    Python::get().run([&] { run_cell(cells_.at(bucket), input, output); });
  }

 private:
  void make_ready(std::int64_t dimension, std::size_t index, const Bucket& bucket) {
    const py::object& mindspore = Python::get().mindspore();
    const py::object graph = mindspore.attr("load")(bucket.file.string());
    py::object cell = mindspore.attr("nn").attr("GraphCell")(graph);
    if (bucket.batch == 0 || bucket.frames == 0) {
      // Without this every new shape is compiled anew.
      const auto open = [](std::int64_t size) -> py::object {
        return size != 0 ? py::object(py::int_(size)) : py::object(py::none());
      };
      const py::object rows = open(bucket.batch), frames = open(bucket.frames);
      using namespace py::literals;
      const py::object tensor = mindspore.attr("Tensor");
      cell.attr("set_inputs")(
          tensor("shape"_a = py::make_tuple(rows, dimension, frames),
                 "dtype"_a = mindspore.attr("float32")),
          tensor("shape"_a = py::make_tuple(rows), "dtype"_a = mindspore.attr("int32")));
    }
    Output output;
    run_cell(cell, zero_input(bucket, dimension), output);  // compiles
    cells_.emplace(index, std::move(cell));
  }

  void run_cell(const py::object& cell, const Input& input, Output& output) const {
    const py::array_t<float> features({input.batch, input.dimension, input.frames},
                                      input.features.data());
    const py::array_t<std::int32_t> lengths({input.batch}, input.lengths.data());
    const py::object tensor = Python::get().mindspore().attr("Tensor");
    const py::tuple results = cell(tensor(features), tensor(lengths));
    if (results.size() != 2) throw std::runtime_error("the network has other outputs than two");
    using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
    using Ints = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
    const Floats log_probs(results[0].attr("asnumpy")());
    const Ints counts(results[1].attr("asnumpy")());
    if (log_probs.ndim() != 3 || counts.ndim() != 1)
      throw std::runtime_error("the network's outputs have other axes than described");
    output.frames = log_probs.shape(0);
    output.batch = log_probs.shape(1);
    output.labels = log_probs.shape(2);
    output.log_probs.assign(log_probs.data(), log_probs.data() + log_probs.size());
    output.lengths.assign(counts.data(), counts.data() + counts.size());
  }

  const EngineOptions options_;
  const std::string executable_;
  std::map<std::size_t, py::object> cells_;  // by bucket; of the thread of Python alone
};

}  // namespace

}  // namespace speech::internal

// What wheel_module.cpp looks up.
extern "C" SPEECH_API speech::internal::Engine* speech_make_wheel(
    const speech::internal::EngineOptions& options) {
  return new speech::internal::WheelEngine(options);
}
