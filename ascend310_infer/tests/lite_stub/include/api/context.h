// See types.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mindspore {

struct DeviceInfoContext {
  virtual ~DeviceInfoContext() = default;
};

struct CPUDeviceInfo : DeviceInfoContext {};

class AscendDeviceInfo : public DeviceInfoContext {
 public:
  void SetDeviceID(std::uint32_t id) { id_ = id; }
  std::uint32_t GetDeviceID() const { return id_; }
  void SetPrecisionMode(const std::string& mode) { mode_ = mode; }
  std::string GetPrecisionMode() const { return mode_; }

 private:
  std::uint32_t id_ = 0;
  std::string mode_ = "enforce_fp16";
};

class Context {
 public:
  void SetThreadNum(std::int32_t) {}
  std::vector<std::shared_ptr<DeviceInfoContext>>& MutableDeviceInfo() { return devices_; }

 private:
  std::vector<std::shared_ptr<DeviceInfoContext>> devices_;
};

}  // namespace mindspore
