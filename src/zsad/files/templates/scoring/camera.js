// Takes images with a camera.

const WISH = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } } };

// `take(images)` gets each image as a PNG without loss.
export function connectCamera({ open, dialog, video, shutter, close, status }, take) {
  let stream = null;
  let number = 0;

  open.addEventListener("click", async () => {
    dialog.showModal();
    shutter.disabled = true;
    status.textContent = "Starting the camera …";
    try {
      if (!navigator.mediaDevices) throw new Error("browsers give pages a camera only over https or on this machine itself (localhost)");
      stream = await navigator.mediaDevices.getUserMedia(WISH);
      video.srcObject = stream;
      await video.play();
      shutter.disabled = false;
      shutter.focus();
      status.textContent = "";
    } catch (error) {
      const reasons = { NotAllowedError: "the browser was not allowed to use it", NotFoundError: "there is none" };
      status.textContent = `No camera: ${reasons[error.name] ?? error.message}.`;
    }
    if (!dialog.open) stop(); // closed while the camera started
  });

  shutter.addEventListener("click", async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    number += 1;
    status.textContent = number === 1 ? "1 image taken" : `${number} images taken`;
    take([{ name: `camera-${number}.png`, blob }]);
  });

  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    video.srcObject = null;
  }
}
