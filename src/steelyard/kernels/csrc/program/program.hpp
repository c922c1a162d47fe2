// A model step as a list of operations over shared row buffers.
//
// The list is made once per model. A step runs it as one job of the thread pool: every worker goes through the whole list,
// doing its share of each operation, and all meet at a barrier before the next. Nothing of Python runs in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"
#include "arena.hpp"
#include "step.hpp"

namespace steelyard {

// What an operation sees while a step runs.
struct Frame {
    const Step& step;
    const Arena& arena;
    Isa isa;
};

class Operation {
  public:
    virtual ~Operation() = default;

    // Does the worker's share. Must neither throw nor wait for other workers.
    virtual void run(const Frame& frame, Worker worker) const = 0;
};

class Program {
  public:
    explicit Program(Isa isa) : isa_(isa) {}

    Arena& arena() { return arena_; }

    // Appends an operation; `kind` names it in the profile.
    void add(const std::string& kind, std::unique_ptr<Operation> operation);

    // Runs the list. Throws std::bad_alloc if the buffers cannot grow to the step's rows.
    void run(const Step& step, ThreadPool& pool);

    // Seconds spent in operations of each kind since the last call, by the first worker's clock.
    std::vector<std::pair<std::string, double>> take_profile();

  private:
    struct Entry {
        std::size_t kind;
        std::unique_ptr<Operation> operation;
    };

    const Isa isa_;
    Arena arena_;
    std::vector<Entry> entries_;
    std::vector<std::string> kinds_;
    std::vector<double> seconds_;
};

}  // namespace steelyard
