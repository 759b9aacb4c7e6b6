# Thread: https://github.com/ayooshkathuria/pytorch-yolo-v3/issues/7
# Title: RuntimeError: Input type (CUDAFloatTensor) and weight type (CUDAHalfTensor) should be the same
# Wrong: The detector is cast to half for speed but the video frames stay float32: the first convolution raises.
import cv2
import torch

from darknet_lite import Darknet, write_results


def prepare(frame, size):
    frame = cv2.resize(frame, (size, size))[:, :, ::-1].transpose(2, 0, 1).copy()
    return torch.from_numpy(frame).float().div(255.0).unsqueeze(0)


def main(video, size=416):
    model = Darknet("cfg/yolov3.cfg")
    model.load_weights("yolov3.weights")
    model.cuda().half().eval()
    capture = cv2.VideoCapture(video)
    while capture.isOpened():
        ok, frame = capture.read()
        if not ok:
            break
        image = prepare(frame, size).cuda()
        with torch.no_grad():
            output = model(image)  # expect: none (float input into a half model, the mirror image of AMP301)
        yield write_results(output.float(), confidence=0.5)
