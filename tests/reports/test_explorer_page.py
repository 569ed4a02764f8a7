"""pyrovae explore as a person meets it: the page in a browser, the command in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import torch
from browser import chromium, console_errors, needs_browser, resize
from exploring import request_of, served, stored
from matplotlib.image import imsave

from pyrovae import cli
from pyrovae.reports import explorer


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # as the command line has it
    yield stored(tmp_path_factory.mktemp("runs") / "räksmörgås", latent_dim=3)
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def app(a_run):
    return explorer.app(a_run)


@pytest.fixture(autouse=True)
def as_the_command_line(fixed_start):
    torch.set_default_dtype(torch.float32)


def test_what_nobody_waits_for_is_stopped(app, monkeypatch):
    """An evaluation without an end: the next question is answered once its asker has gone."""
    began = threading.Event()

    def endless(model, guide, data, **keywords):
        while True:
            model(data[0][None])
            began.set()

    monkeypatch.setattr("pyrovae.reports.explorer.answers.evaluate", endless)
    with served(app) as address:
        with socket.create_connection(("127.0.0.1", int(address[:-1].rpartition(":")[2]))) as asking:
            asking.sendall(request_of("/evaluate", row=0))
            assert began.wait(60)
        json_head = {"Content-Type": "application/json"}
        other = urllib.request.Request(f"{address}decode", b'{"z": [0, 0, 0]}', json_head)
        with urllib.request.urlopen(other, timeout=60) as response:
            assert len(json.load(response)["mean"]) == 784


@needs_browser
def test_the_page_works_in_a_browser(app, tmp_path):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def at(name):
        return browser.find_element(By.ID, name)

    def fits():
        return browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    def picture(name):
        return browser.execute_script(f"return document.getElementById('{name}').toDataURL()")

    def until(condition):
        WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: condition())

    picture_of_a_bar = torch.ones(60, 90, 3)
    picture_of_a_bar[10:50, 40:50] = 0
    dark_on_light = tmp_path / "bar.png"
    imsave(dark_on_light, picture_of_a_bar.numpy())
    with served(app) as address, chromium(375, 800) as browser:
        browser.get(address)
        until(lambda: at("z0").is_displayed())
        until(lambda: browser.execute_script("return document.getElementById('mean').width") == 28)
        assert fits()
        start = picture("mean")
        at("z0").send_keys(Keys.ARROW_RIGHT * 20)
        until(lambda: picture("mean") != start)
        before, where = picture("mean"), at("z0").get_attribute("value")
        at("plane").send_keys(Keys.ARROW_UP * 10)
        until(lambda: picture("mean") != before)
        before = picture("mean")
        ActionChains(browser).move_to_element_with_offset(at("plane"), 40, 30).click().perform()
        until(lambda: picture("mean") != before)
        assert at("z0").get_attribute("value") != where

        at("set-a").click()
        at("origin").click()
        at("set-b").click()
        until(lambda: at("between").is_enabled())
        before = picture("mean")
        at("between").send_keys(Keys.HOME)  # from B, where it is, to A
        until(lambda: picture("mean") != before)
        assert at("between-value").text == "0.00"

        browser.execute_script("document.getElementById('samples').value = 30")
        at("row").send_keys(Keys.CONTROL, "a", Keys.NULL, "3", Keys.ENTER)
        until(lambda: re.search(r"log p\(x\)\n-\d+\.\d\d ± [\d.]+ nats\nk-hat\n", at("numbers").text))
        assert at("x-caption").text.startswith("Row 3 of the test split, class ")
        assert fits()
        loc = browser.find_element(By.CSS_SELECTOR, "#q-table td:nth-child(2)").get_attribute("textContent")
        name = browser.find_element(By.CSS_SELECTOR, "#q-table td").get_attribute("textContent")
        at("send").click()
        until(lambda: abs(float(at(re.sub(r"\W", "", name)).get_attribute("value")) - float(loc)) < 0.006)

        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", at("pad"))
        stroke = ActionChains(browser).move_to_element_with_offset(at("pad"), 0, -40).click_and_hold()
        stroke.move_by_offset(5, 80).release().perform()
        at("use").click()
        until(lambda: at("x-caption").text.startswith("Your image, as the model sees it: scaled to"))
        until(lambda: "±" in at("numbers").text)
        assert "bits drawn with the grey values as probabilities, seed 0" in at("x-caption").text
        at("file").send_keys(str(dark_on_light))
        until(lambda: "inverted, since its edge is light; scaled to MNIST" in at("x-caption").text)
        resize(browser, 1280)
        assert fits()
        assert not at("error").is_displayed()
        assert not console_errors(browser)

        browser.execute_script("document.getElementById('row-form').noValidate = true")
        at("row").send_keys(Keys.CONTROL, "a", Keys.NULL, "99999", Keys.ENTER)
        until(lambda: "the test split has rows 0 to 999" in at("error").text)


def test_the_command_serves_until_ctrl_c(a_run):
    command = [sys.executable, "-m", "pyrovae", "explore", str(a_run), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r".*räksmörgås: (http://127\.0\.0\.1:(\d+)/) \(Ctrl-C ends it\)\n", line)
            assert found, line
            with urllib.request.urlopen(f"{found[1]}about", timeout=60) as response:
                assert json.load(response)["name"] == "räksmörgås"
            with pytest.raises(OSError, match="refused"):  # on this machine's other addresses
                socket.create_connection(("127.0.0.2", int(found[2])), timeout=5)
            asking = socket.create_connection(("127.0.0.1", int(found[2])))
            asking.sendall(request_of("/evaluate", row=0, num_samples=10_000))
            time.sleep(0.3)
        finally:
            os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        asking.close()
    assert (process.returncode, said) == (0, "")


def test_ctrl_c_is_its_end_as_soon_as_the_address_is_said(a_run, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Config", interrupted)
    assert cli.main(["explore", str(a_run), "--no-browser"]) == 0
    assert "127.0.0.1" in capsys.readouterr().out


def test_what_keeps_it_from_serving_is_one_line(a_run, tmp_path, capsys, monkeypatch):
    def said(*arguments, code=2):
        assert cli.main(["explore", *map(str, arguments)]) == code
        found = capsys.readouterr()
        assert not found.out
        assert found.err.count("\n") == 1
        return found.err

    assert "no recipe.json, so no run" in said(tmp_path)
    assert "--port is 99999: 1 to 65535 are possible" in said(a_run, "--port", 99999)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be had (Address already in use): name another" in said(
            a_run, "--port", port
        )
    monkeypatch.setattr("pyrovae.cli.explore.find_spec", lambda name: None)
    assert 'explore needs fastapi: pip install "pyrovae[explore]"' in said(a_run, code=1)
