"""ComfyUI's page in a headless Chromium. Clicks where a user clicks, and asks its objects only for what they hold."""

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from helpers.processes import SECONDS

TEMPLATES = "//button[@aria-label='Templates']"
NEW_WORKFLOW = "//button[@aria-label='Create a new blank workflow']"
FIT_VIEW = "//button[starts-with(@aria-label, 'Fit View')]"
# The second one is in newer frontends, where the first is the menu beside it.
RUN = "//button[@aria-label='Run' and not(@data-testid)] | //button[@data-testid='queue-button']"
CANCEL = "//button[@aria-label='Cancel current run']"
IN_DIALOG = "//*[@role='dialog']//*[not(*) and normalize-space()='{}']"

# Keeps what the server tells the page, and puts the page's file inputs where WebDriver can fill them.
PREPARE = """
window.seen = [];
for (const kind of ['progress', 'execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, (event) => window.seen.push({...event.detail, kind}));
const click = HTMLInputElement.prototype.click;
HTMLInputElement.prototype.click = function () {
    if (this.type !== 'file') return click.call(this);
    this.dataset.asked = 'yes';
    document.body.append(this);
};
"""

GRAPH = """
const offered = (widget) => {
    const values = widget.options?.values;
    return typeof values === 'function' ? values() : values;
};
const unknown = (widget) => Array.isArray(offered(widget)) && !offered(widget).includes(widget.value);
return {
    nodes: Object.fromEntries(app.graph.nodes.map((node) => [node.id, {
        type: node.type,
        missing: !(node.type in LiteGraph.registered_node_types) || !!node.has_errors,
        widgets: node.serialize().widgets_values ?? [],
        not_offered: (node.widgets ?? []).filter(unknown).map((widget) => [widget.name, widget.value]),
    }])),
    links: [...app.graph.links.values()].map((link) => {
        const source = app.graph.getNodeById(link.origin_id), target = app.graph.getNodeById(link.target_id);
        const output = source?.outputs[link.origin_slot], input = target?.inputs[link.target_slot];
        const whole = output?.links.includes(link.id) && input?.link === link.id;
        return whole ? [`${source.id}`, output.name, `${target.id}`, input.name] : ['loose', link.id];
    }).sort(),
};
"""

TEMPLATE_PICTURES = """
const pictures = [...document.querySelectorAll('[role=dialog] img[alt^=consisid_]')];
return Object.fromEntries(pictures.map((picture) => [picture.alt, [picture.naturalWidth, picture.naturalHeight]]));
"""

# Frontends load the pictures of what is in view; older ones drop them when it is left.
SHOW_TEMPLATE = """
const leaves = [...document.querySelectorAll('[role=dialog] *')].filter((element) => !element.children.length);
const titles = leaves.filter((leaf) => leaf.textContent.trim().startsWith('consisid_'));
const title = titles.find((title) => title.textContent.trim() === arguments[0]) ?? titles.at(-1);
title?.scrollIntoView({block: 'center'});
"""

SET_WIDGETS = """
const [type, values] = arguments;
for (const node of app.graph.nodes.filter((node) => node.type === type))
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find((widget) => widget.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
"""

UPLOAD_BUTTON = """
const node = app.graph.nodes.find((node) => node.type === 'LoadImage');
const widget = node.widgets.find((widget) => widget.name === 'upload');
const {left, top} = app.canvas.canvas.getBoundingClientRect(), {scale, offset} = app.canvas.ds;
const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + widget.last_y + 10;
return widget.last_y && [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
"""


class Page:
    """The page of the ComfyUI at url. programs: the paths of the browser and of its driver."""

    def __init__(self, programs, url):
        options = webdriver.ChromeOptions()
        options.binary_location, driver = programs
        # Without a graphics card and what moves between two states, which a processor draws slowly.
        # Debian asks for the card all the same, and a program that stands in for one.
        drawing = ("disable-gpu", "disable-gpu-rasterization", "force-prefers-reduced-motion")
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-dev-shm-usage",
            "window-size=1900,1100",
            "lang=en",
            *drawing,
        ):
            options.add_argument(f"--{argument}")
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.set_script_timeout(SECONDS)
        # The hundreds of ComfyUI's own templates would take longer to draw than all that is tested.
        self.driver.execute_cdp_cmd("Network.enable", {})
        others = {"urls": ["*/templates/index*.json", "*/templates/*.webp"]}
        self.driver.execute_cdp_cmd("Network.setBlockedURLs", others)
        self.url = url

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, what):
        """Waits until the script's value is true, and returns it."""
        waiting = WebDriverWait(self.driver, SECONDS, poll_frequency=0.2)
        return waiting.until(lambda _: self.js(script), f"{what}: not within {SECONDS} s")

    def click(self, xpath):
        """Clicks the first visible match, again if the page redraws it under the mouse."""
        waiting = WebDriverWait(self.driver, SECONDS, 0.2, ignored_exceptions=[WebDriverException, StopIteration])

        def clicked(driver):
            next(element for element in driver.find_elements(By.XPATH, xpath) if element.is_displayed()).click()
            return True

        waiting.until(clicked, f"nothing to click at {xpath}")

    def open(self):
        """Loads the page anew, with an empty graph and nothing left of what was done in it before."""
        # Loading takes many seconds, so it is not done once more to be allowed to clear the page's storage.
        stored = {"origin": self.url, "storageTypes": "all"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)
        self.driver.get(self.url)
        self.wait("return !!window.app?.graph && 'ConsisIDSampler' in LiteGraph.registered_node_types", "the page")
        self.js(PREPARE)
        self.empty()

    def empty(self):
        self.click(NEW_WORKFLOW)
        self.wait("return app.graph.nodes.length === 0", "an empty graph")

    # Graphs

    def open_templates(self):
        """Shows the pack in the template browser."""
        self.click(TEMPLATES)
        self.click(IN_DIALOG.format("comfyui-consisid"))

    def wait_for_template_pictures(self, sizes):
        """Waits until these pictures were drawn, {template: [width, height]}, and no others. A stand-in is square."""
        drawn = {}

        def all_drawn(_):
            drawn.update(self.js(TEMPLATE_PICTURES))
            self.js(SHOW_TEMPLATE, next((name for name in sizes if drawn.get(name) != sizes[name]), None))
            return drawn == sizes

        waiting = WebDriverWait(self.driver, SECONDS, poll_frequency=0.5)
        waiting.until(all_drawn, f"not these template pictures: {sizes}")

    def open_template(self, name):
        self.open_templates()
        self.click(IN_DIALOG.format(name))
        self.wait("return !document.querySelector('[role=dialog]')", "the template browser closed, no other dialog")
        self.wait_for_graph()

    def drop(self, file):
        """Drags a file onto the canvas."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            event = {"type": step, "x": 950, "y": 550, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)
        self.wait_for_graph()

    def wait_for_graph(self):
        self.wait("return app.graph.nodes.length > 0", "a graph")
        self.click(FIT_VIEW)

    def graph(self):
        """{"nodes": {id: type, missing, widgets, not_offered}, "links": [(source, output, target, input)]}."""
        return self.js(GRAPH)

    def set_widgets(self, node_type, **values):
        self.js(SET_WIDGETS, node_type, values)

    def upload_photo(self, file):
        """Clicks the upload button of Load Image and chooses the file."""
        waiting = WebDriverWait(self.driver, SECONDS, poll_frequency=1)

        def asked(driver):
            if driver.find_elements(By.CSS_SELECTOR, "input[data-asked]"):
                return True
            # Again, because the first click may come while the view is still moving, and open a menu beside the button.
            ActionChains(driver).send_keys(Keys.ESCAPE).perform()
            place = self.wait(UPLOAD_BUTTON, "Load Image's upload button")
            mouse = ActionBuilder(driver)
            mouse.pointer_action.move_to_location(*map(int, place)).click()
            mouse.perform()
            return False

        waiting.until(asked, "no file chooser after Load Image's upload button was clicked")
        self.driver.find_element(By.CSS_SELECTOR, "input[data-asked]").send_keys(str(file))

    # Runs

    def run(self):
        self.js("window.seen = []")
        self.click(RUN)

    def cancel(self):
        self.click(CANCEL)

    def seen(self, kind):
        return [event for event in self.js("return window.seen") if event["kind"] == kind]

    def wait_for_end(self):
        """Waits until the run has ended; returns its last event."""
        return self.wait("return window.seen.find((event) => event.kind.startsWith('execution_'))", "the end")

    def pictures(self, node_type):
        """Addresses of the pictures that are drawn on the nodes of this type."""
        script = """
            const nodes = app.graph.nodes.filter((node) => node.type === '%s');
            const pictures = nodes.flatMap((node) => node.imgs ?? []);
            return pictures.length && pictures.every((picture) => picture.naturalWidth) && pictures.map((p) => p.src);
        """
        return self.wait(script % node_type, f"a picture on {node_type}")

    def wait_for_text(self, node_type, beginning):
        """Waits until the node shows a text from the server that begins so."""
        script = """
            const node = app.graph.nodes.find((node) => node.type === arguments[0]);
            const text = node.widgets.find((widget) => widget.name === '$$node-text-preview')?.value;
            return !!text?.startsWith(arguments[1]);
        """
        waiting = WebDriverWait(self.driver, SECONDS, poll_frequency=0.2)
        waiting.until(lambda _: self.js(script, node_type, beginning), f"no {beginning!r} on {node_type}")

    def play_video(self):
        """Clicks the saved video on its node, waits until it plays; returns its address, width, height and seconds."""
        self.click(FIT_VIEW)
        saved = "video[src*='type=output']"  # There may be videos to start from, too.
        self.wait(f'return document.querySelector("{saved}")?.readyState >= 2', "a loaded video")
        self.click("//video[contains(@src, 'type=output')]")
        return self.wait(
            f'const {{src, videoWidth, videoHeight, duration, currentTime}} = document.querySelector("{saved}");'
            "return currentTime > 0.1 && [src, videoWidth, videoHeight, duration];",
            "the video playing",
        )

    def screenshot(self, file):
        self.driver.save_screenshot(str(file))
