"""Makes the pictures of README and site, by the commands themselves, in headless Chromium.

    make tutorials
    .venv/bin/python docs/scripts/screenshots.py

Writes docs/assets/NAME-light.png and NAME-dark.png, 1,280 pixels wide, and with --all, to look at,
NAME-phone.png, 390 pixels wide. Needs chromium and its driver (Debian: chromium, chromium-driver).
"""

import argparse
import base64
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "docs" / "assets"
WIDTH, PHONE = 1280, 390


def browser() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def shoot(
    driver: Any, url: str, path: Path, width: int, height: int, dark: bool, wait: float
) -> None:
    """One picture of the top `height` pixels of a page."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(url)
    time.sleep(wait)
    picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(picture["data"]))
    _smaller(path)


def _smaller(path: Path) -> None:
    """Rewrite with a palette: pages have few colors, and the repository stays small."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, default=ROOT / "runs" / "demo" / "report.html")
    parser.add_argument("--wait", type=float, default=30, help="seconds for the viewer's map")
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--all", action="store_true", help="also for a phone")
    parser.add_argument("--only", nargs="*", help="names of pictures (evaluation, viewer)")
    args = parser.parse_args()
    evaluation = ROOT / "runs" / "tutorials" / "biologist" / "activity"
    profiles = ROOT / "examples" / "data" / "cpjump1" / "profiles.parquet"
    pages = {
        "evaluation": ((evaluation / "index.html").as_uri(), 900),
        "report": (args.report.resolve().as_uri(), 900),
        "site": ((ROOT / "site" / "index.html").as_uri(), 900),
        "viewer": ("http://127.0.0.1:8437/", 800),
    }
    pages = {name: pages[name] for name in args.only or ("evaluation", "viewer")}
    viewer = None
    if "viewer" in pages:
        command = ["view", "--embeddings", str(profiles), "--port", "8437"]
        viewer = subprocess.Popen([sys.executable, "-m", "mae_jax.cli.main", *command])
        time.sleep(args.wait)
    driver = browser()
    try:
        for name, (url, height) in pages.items():
            wait = 15.0 if name == "viewer" else 2.0
            for dark in (False, True):
                path = args.out / f"{name}-{'dark' if dark else 'light'}.png"
                shoot(driver, url, path, WIDTH, height, dark, wait)
            if args.all:
                shoot(driver, url, args.out / f"{name}-phone.png", PHONE, 844, False, wait)
    finally:
        driver.quit()
        if viewer is not None:
            viewer.terminate()
            viewer.wait()


if __name__ == "__main__":
    main()
