// A dialog that takes a picture with the camera.

import { $ } from "./dom.js";

const dialog = $("camera");
const video = $("viewfinder");
let stream = null;

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
}

function explain(error) {
  const causes = {
    NotAllowedError: "The browser did not get permission to use the camera.",
    NotFoundError: "There is no camera.",
    NotReadableError: "Another program uses the camera.",
  };
  $("camera-error").textContent = causes[error.name] ?? `The camera cannot be used (${error.message}).`;
  $("camera-error").hidden = false;
}

/** Let the user take pictures; `take` is called with each as a Blob. */
export function setUpCamera(take) {
  const opener = $("open-camera");
  if (!navigator.mediaDevices?.getUserMedia) {
    // browsers give cameras to pages of this machine and to encrypted ones only
    opener.disabled = true;
    opener.title = "Browsers allow the camera on this machine's own pages and over HTTPS only.";
    return;
  }
  opener.addEventListener("click", async () => {
    $("camera-error").hidden = true;
    $("shoot").disabled = true;
    dialog.showModal();
    try {
      const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (!dialog.open) {
        opened.getTracks().forEach((track) => track.stop());
        return;
      }
      stream = video.srcObject = opened;
      await video.play();
      $("shoot").disabled = false;
      $("shoot").focus();
    } catch (error) {
      if (dialog.open) explain(error);
    }
  });
  $("shoot").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((picture) => picture && take(picture), "image/jpeg", 0.92);
    dialog.close();
  });
  $("close-camera").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);
}
