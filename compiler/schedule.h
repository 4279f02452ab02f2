// schedule.h: from what the caller, the file and the device say to the schedule that is planned.
#pragma once

#include "ir/layer.h"
#include "phasec/config.h"

#include <string_view>

namespace phasec {

/// `schedule` with the knobs that the module's layers set laid below it, target `auto` resolved to the device's (or
/// sm_90a), and wo_split 0 where there is nothing to split.
Result<Schedule> effectiveSchedule(const ir::Module &module, const Schedule &schedule, std::string_view device_target);

} // namespace phasec
