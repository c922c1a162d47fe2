// Row buffers that the operations of a program share: one allocation, grown to the widest step seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace steelyard {

class Arena {
  public:
    // A buffer by number.
    using Buffer = std::size_t;

    // Adds a buffer of `row_bytes` per row; rows lie one behind the other.
    Buffer add(std::size_t row_bytes) {
        buffers_.push_back({row_bytes, 0});
        num_rows_ = 0;
        return buffers_.size() - 1;
    }

    // Makes room for `num_rows` rows in every buffer; what was in them is lost if the arena grows.
    void reserve(std::size_t num_rows) {
        if (num_rows <= num_rows_) return;
        std::size_t size = 0;
        for (Slot& slot : buffers_) {
            slot.offset = size;
            size += (slot.row_bytes * num_rows + alignment - 1) / alignment * alignment;
        }
        memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, size + alignment)));
        if (!memory_) throw std::bad_alloc();
        num_rows_ = num_rows;
    }

    template <class T>
    T* rows(Buffer buffer) const {
        return reinterpret_cast<T*>(memory_.get() + buffers_[buffer].offset);
    }

  private:
    static constexpr std::size_t alignment = 64;

    struct Slot {
        std::size_t row_bytes;
        std::size_t offset;
    };
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };

    std::vector<Slot> buffers_;
    std::size_t num_rows_ = 0;
    std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace steelyard
