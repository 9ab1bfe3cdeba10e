// The MindSpore wheel of a Python environment, embedded: MindIR files on a plain CPU.
//
// The Python is the one that the program was built with, or that of --python: its executable is
// given to the interpreter, which then finds the environment's packages by itself.

#include <pybind11/embed.h>
#include <pybind11/numpy.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>

#include "engine.h"
#include "errors.h"

namespace py = pybind11;

namespace infer {
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

// The interpreter, from its start to the end of the process; between calls the lock is free.
class Interpreter {
 public:
  explicit Interpreter(const std::string& executable) {
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
    PyEval_SaveThread();  // not finalised: see main.cpp
  }
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
};

class WheelEngine : public Engine {
 public:
  explicit WheelEngine(const EngineOptions& options)
      : options_(options), python_(options.python.empty() ? WHEEL_PYTHON : options.python) {
    // What common/runtime.py sets before mindspore is imported; a user's own setting wins.
    ::setenv("GLOG_v", "3", 0);
    ::setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0", 0);
    if (options_.threads > 0)
      ::setenv("OMP_NUM_THREADS", std::to_string(options_.threads).c_str(), 0);
  }

  ~WheelEngine() override {
    if (!interpreter_) return;
    const py::gil_scoped_acquire lock;
    cells_.clear();
    tensor_ = py::object();
    mindspore_ = py::object();
  }

  void load(const Description& description, const std::vector<std::size_t>& buckets) override {
    if (options_.device != 0)
      throw UsageError("device " + std::to_string(options_.device) +
                       " is not there: a CPU has device 0 alone; see --instances");
    interpreter_.emplace(python_);
    const py::gil_scoped_acquire lock;
    try {
      mindspore_ = py::module_::import("mindspore");
      tensor_ = mindspore_.attr("Tensor");
      py::dict context;
      context["mode"] = mindspore_.attr("GRAPH_MODE");
      if (options_.threads > 0) context["runtime_num_threads"] = options_.threads;
      mindspore_.attr("set_context")(**context);
      mindspore_.attr("set_device")("CPU");
    } catch (const py::error_already_set& error) {
      throw UsageError(python_ + " has no MindSpore that starts: " + reason(error));
    }
    for (const std::size_t index : buckets) {
      const Bucket& bucket = description.buckets[index];
      try {
        make_ready(description.dimension, index, bucket);
      } catch (const py::error_already_set& error) {
        throw UsageError(bucket.file.string() + ": MindSpore cannot run it: " + reason(error));
      }
    }
  }

  void run(std::size_t bucket, const Input& input, Output& output) override {
    const py::gil_scoped_acquire lock;
    try {
      run_cell(cells_.at(bucket), input, output);
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(reason(error));
    }
  }

 private:
  void make_ready(std::int64_t dimension, std::size_t index, const Bucket& bucket) {
    const py::object graph = mindspore_.attr("load")(bucket.file.string());
    py::object cell = mindspore_.attr("nn").attr("GraphCell")(graph);
    if (bucket.batch == 0 || bucket.frames == 0) {
      // Without this every new shape is compiled anew.
      const auto open = [](std::int64_t size) -> py::object {
        return size != 0 ? py::object(py::int_(size)) : py::object(py::none());
      };
      const py::object rows = open(bucket.batch), frames = open(bucket.frames);
      using namespace py::literals;
      cell.attr("set_inputs")(
          tensor_("shape"_a = py::make_tuple(rows, dimension, frames),
                  "dtype"_a = mindspore_.attr("float32")),
          tensor_("shape"_a = py::make_tuple(rows), "dtype"_a = mindspore_.attr("int32")));
    }
    Output output;
    run_cell(cell, silence(bucket, dimension), output);  // compiles
    cells_.emplace(index, std::move(cell));
  }

  void run_cell(const py::object& cell, const Input& input, Output& output) const {
    const py::array_t<float> features({input.batch, input.dimension, input.frames},
                                      input.features.data());
    const py::array_t<std::int32_t> lengths({input.batch}, input.lengths.data());
    const py::tuple results = cell(tensor_(features), tensor_(lengths));
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
  const std::string python_;
  std::optional<Interpreter> interpreter_;  // before what is below
  py::object mindspore_, tensor_;
  std::map<std::size_t, py::object> cells_;  // by bucket
};

}  // namespace

std::unique_ptr<Engine> make_wheel(const EngineOptions& options) {
  return std::make_unique<WheelEngine>(options);
}

}  // namespace infer
