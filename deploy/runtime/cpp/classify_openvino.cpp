// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// A bundle's model through OpenVINO's C++ API, on the CPU.
#include <algorithm>
#include <memory>
#include <openvino/openvino.hpp>

#include "program.hpp"

namespace {

// Left alone, OpenVINO computes float32 models in bfloat16 on processors that have it; compute as was measured.
ov::element::Type precision_of(ov::Core& core, const std::string& precision) {
    const auto has = core.get_property("CPU", ov::device::capabilities);
    const bool halves = std::find(has.begin(), has.end(), ov::device::capability::FP16) != has.end();
    return precision == "fp16" && halves ? ov::element::f16 : ov::element::f32;
}

class Classifier {
  public:
    Classifier(const Contract& contract, int threads) : contract_(contract) {
        ov::Core core;
        auto model = core.compile_model(contract.folder + contract.model, "CPU",
                                        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
                                        ov::inference_num_threads(threads),
                                        ov::hint::inference_precision(precision_of(core, contract.precision)));
        request_ = model.create_infer_request();
    }

    std::vector<float> operator()(Tensor& tensor) {
        const ov::Shape shape(tensor.shape.begin(), tensor.shape.end());
        request_.set_input_tensor(contract_.bytes ? ov::Tensor(ov::element::u8, shape, tensor.bytes.data())
                                                  : ov::Tensor(ov::element::f32, shape, tensor.floats.data()));
        request_.infer();
        const ov::Tensor answer = request_.get_output_tensor(0);
        return {answer.data<float>(), answer.data<float>() + answer.get_shape().back()};
    }

  private:
    Contract contract_;
    ov::InferRequest request_;
};

}  // namespace

int main(int argc, char** argv) {
    return run(argc, argv, "openvino", [](const Contract& contract, int threads) -> Answer {
        const auto classifier = std::make_shared<Classifier>(contract, threads);
        return [classifier](Tensor& tensor) { return (*classifier)(tensor); };
    });
}
