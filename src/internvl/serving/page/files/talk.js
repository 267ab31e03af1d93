// The conversation and the question, in the browser. Gradio hands in: element, trigger, props, upload, watch.
// What is seen comes from the server as `props.value`; what is typed, picked and pressed goes there by `trigger`.
const $ = (selector) => element.querySelector(selector);
const all = (selector) => Array.from(element.querySelectorAll(selector));
const root = $('.iv'), log = $('.iv-log'), form = $('.iv-ask'), text = $('#iv-question'), files = $('.iv-files');
const settings = () => document.getElementById('iv-settings');
let words = {}, sight = { items: [] }, attached = [], editing = null, reasonFor = null, camera = null, busy = false;
let following = true, seenDraft = '', seenNotice = '', seenDownload = '', noticeTimer = 0, silence = 0, looking = 0, pause = 3000, missing = '';

const say = (word, filled = {}) => Object.entries(filled).reduce((said, [name, value]) => said.replace('{' + name + '}', value), words[word] || '');
const store = (name, value) => { try { if (value === undefined) return localStorage.getItem('internvl-' + name); localStorage.setItem('internvl-' + name, value); } catch { /* private windows */ } return null; };
const make = (tag, more = {}, ...children) => { const made = Object.assign(document.createElement(tag), more); made.append(...children); return made; };

// ---- what the server says -------------------------------------------------------------------------------------------

function draw() {
  const next = props.value;
  if (!next || !next.items) return;
  const wasBusy = busy;
  clearTimeout(silence);
  sight = next; busy = next.busy;
  if (next.words !== words) { words = next.words; name_everything(next.language); }
  draw_items(next.items);
  $('.iv-welcome').hidden = next.items.length > 0;
  log.hidden = next.items.length === 0;
  log.setAttribute('aria-busy', String(busy)); root.dataset.busy = String(busy);
  $('.iv-send[type=submit]').hidden = busy;
  $('.iv-stop').hidden = !busy;
  $('.iv-model').textContent = next.model || '';
  if (!next.model && !looking) looking = setTimeout(look_again, pause);
  if (next.model && looking) found();
  root.classList.toggle('iv-empty', next.items.length === 0);
  root.classList.toggle('iv-voting', next.votes);
  for (const act of ['new', 'share']) $('[data-act=' + act + ']').disabled = next.items.length === 0 || (busy && act === 'share');
  $('[data-act=sign_out]').hidden = !next.signed;
  draw_examples(next.examples);
  if (wasBusy && !busy) {
    const part = (name) => log.lastElementChild?.querySelector(name)?.textContent || '';
    $('.iv-said').textContent = part('.iv-text').slice(0, 2000) + ' ' + (part('.iv-wrong p') || say('answered'));
  } else if (busy) $('.iv-said').textContent = '';
  if (next.draft && next.draft.id !== seenDraft) { seenDraft = next.draft.id; if (!text.value) text.value = next.draft.text; grow(); text.focus(); }
  if (next.notice && next.notice.id !== seenNotice) { seenNotice = next.notice.id; if (looking) missing = next.notice.text; notice(next.notice.text); }
  if (next.download && next.download.id !== seenDownload) { seenDownload = next.download.id; make('a', { href: next.download.url, download: next.download.name }).click(); }
  if (following && next.items.length) requestAnimationFrame(() => window.scrollTo(0, document.documentElement.scrollHeight));
}

function draw_items(items) {
  const known = new Map(Array.from(log.children).map((one) => [one.dataset.id, one]));
  let place = log.firstElementChild;
  for (const item of items) {
    let one = known.get(item.id);
    known.delete(item.id);
    if (!one) { one = make('article', { className: 'iv-item ' + item.role }); one.dataset.id = item.id; log.insertBefore(one, place); } else place = one.nextElementSibling;
    if (one.drawn !== item.html) { keep_focus(one, () => { one.innerHTML = item.html; }); one.drawn = item.html; }
    one.querySelectorAll('.iv-act[data-word=edit]').forEach((edit) => { edit.disabled = busy; });
  }
  for (const gone of known.values()) gone.remove();
}

function keep_focus(where, change) {
  const held = where.contains(document.activeElement) ? document.activeElement.dataset.act + '/' + document.activeElement.dataset.word : null;
  change();
  if (held) Array.from(where.querySelectorAll('.iv-act')).find((one) => one.dataset.act + '/' + one.dataset.word === held || one.dataset.act + '/' === held.split('/')[0] + '/')?.focus();
}

function name_everything(language) {
  const code = language === 'zh' ? 'zh-CN' : 'en';
  document.documentElement.lang = code; root.lang = code;
  const places = [element, settings()].filter(Boolean);
  for (const place of places) {
    for (const one of place.querySelectorAll('[data-word]')) if (!one.closest('.iv-log')) one.textContent = say(one.dataset.word);
    for (const one of place.querySelectorAll('[data-label]')) { one.setAttribute('aria-label', say(one.dataset.label)); if (one.tagName === 'BUTTON') one.title = say(one.dataset.label); }
    for (const one of place.querySelectorAll('[data-place]')) one.placeholder = say(one.dataset.place);
  }
  grow();
  settings()?.setAttribute('aria-label', say('settings'));
  const closing = document.querySelector('.iv-settings-head h2');
  if (closing) { closing.textContent = say('settings'); const button = closing.nextElementSibling; button.setAttribute('aria-label', say('close')); button.title = say('close'); }
  name_theme(); draw_files();
}

function draw_examples(examples) {
  const list = $('.iv-examples');
  const drawn = JSON.stringify(examples);
  if (list.drawn === drawn) return;
  list.drawn = drawn;
  list.replaceChildren(...examples.map((one) => {
    const picture = make('img', { src: one.url, alt: '' });
    const button = make('button', { type: 'button', className: 'iv-example' }, picture, make('span', { textContent: one.question }));
    button.dataset.act = 'example'; button.dataset.number = one.number;
    return make('li', {}, button);
  }));
}

function notice(said) {
  const line = $('.iv-notice');
  line.textContent = said; line.hidden = !said;
  clearTimeout(noticeTimer);
  if (said && said !== missing) noticeTimer = setTimeout(() => { line.hidden = true; }, 12000);
}

// Nobody answered yet: is somebody there now?
function look_again() {
  if (!document.hidden) { trigger('speak', { language: sight.language }); pause = Math.min(2 * pause, 30000); }
  looking = setTimeout(look_again, pause);
}

function found() {
  clearTimeout(looking); looking = 0; pause = 3000;
  if ($('.iv-notice').textContent === missing) notice('');
}

// ---- asking ---------------------------------------------------------------------------------------------------------

function grow() { text.style.height = 'auto'; text.style.height = Math.min(text.scrollHeight, window.innerHeight * 0.4) + 'px'; }

async function attach(picked) {
  for (const file of picked) {
    if (attached.length >= sight.files) { notice(say('too_many', { count: sight.files })); break; }
    const name = file.name || 'picture.png';
    if (file.size > sight.most) { notice(say('too_large', { name, most: Math.floor(sight.most / 2 ** 20) })); continue; }
    const one = { name, path: null, url: file.type.startsWith('image/') ? URL.createObjectURL(file) : null };
    attached.push(one); draw_files();
    try {
      const sent = await upload(file.name ? file : new File([file], name, { type: file.type }));
      one.path = sent.path;
      if (!one.path) throw new Error('no place');
    } catch { attached = attached.filter((other) => other !== one); notice(say('upload_failed', { name })); }
    draw_files();
  }
  text.focus();
}

function draw_files() {
  const chips = attached.map((one, place) => {
    const picture = one.url ? make('img', { src: one.url, alt: '' }) : make('span', { className: 'iv-icon i-file' });
    const remove = make('button', { type: 'button', className: 'iv-act', title: say('remove', { name: one.name }) }, make('span', { className: 'iv-icon i-close' }));
    remove.setAttribute('aria-label', remove.title); remove.dataset.act = 'remove'; remove.dataset.place = String(place);
    return make('li', { className: one.path || one.kept !== undefined ? '' : 'iv-loading', title: one.path || one.kept !== undefined ? one.name : say('uploading', { name: one.name }) }, picture, make('span', { className: 'iv-file-name', textContent: one.name }), remove);
  });
  files.replaceChildren(...chips);
}

function send() {
  if (busy || attached.some((one) => one.path === null && one.kept === undefined)) return;
  const said = text.value.trim();
  if (!said && !attached.length) { text.focus(); return; }
  const kept = attached.filter((one) => one.kept !== undefined).map((one) => one.kept);
  const sent = attached.filter((one) => one.path).map((one) => ({ place: one.path, name: one.name }));
  await_answer();
  trigger('ask', { text: said, files: sent, since: editing, kept });
  text.value = ''; attached.forEach((one) => one.url && one.path && URL.revokeObjectURL(one.url)); attached = []; edit_no_more(); draw_files(); grow(); notice('');
}

function await_answer() {
  busy = true; following = true; root.dataset.busy = 'true';
  clearTimeout(silence);
  silence = setTimeout(() => { busy = false; notice(say('away')); }, 60000);
}

function edit(turn) {
  const asked = log.querySelector('[data-id=q' + turn + ']');
  editing = turn;
  text.value = asked.querySelector('.iv-text')?.textContent || '';
  const strips = Array.from(asked.querySelectorAll('.iv-pictures > *'));
  attached = strips.map((one, place) => {
    const picture = one.querySelector('img');
    const name = one.matches('figure') ? picture.alt.replace(/^[^:：]*[:：]\s*/, '') : one.querySelector('p').textContent;
    return { name, path: null, kept: place, url: picture.src };
  });
  $('.iv-editing').hidden = false;
  draw_files(); grow(); text.focus();
}

function edit_no_more() { editing = null; $('.iv-editing').hidden = true; }

function cancel() { if (editing === null) return; edit_no_more(); text.value = ''; attached = []; draw_files(); grow(); text.focus(); }

// ---- camera, pictures seen large, settings, theme -------------------------------------------------------------------

async function open_camera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' }, audio: false });
    $('.iv-camera video').srcObject = camera;
    $('.iv-camera').showModal();
  } catch { notice(say('no_camera')); }
}

async function snap() {
  const video = $('.iv-camera video');
  const canvas = make('canvas', { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  const picture = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.92));
  $('.iv-camera').close();
  if (picture) attach([new File([picture], 'camera.jpg', { type: 'image/jpeg' })]);
}

function zoom(picture) {
  const copy = picture.closest('.iv-on').cloneNode(true);
  copy.querySelector('img').removeAttribute('tabindex'); copy.querySelector('img').removeAttribute('role');
  const wide = Number(picture.getAttribute('width')), high = Number(picture.getAttribute('height'));
  copy.style.aspectRatio = wide + ' / ' + high;
  copy.style.width = 'min(calc(92vw - 2rem), calc(78vh * ' + (wide / high) + '))';
  $('.iv-zoomed').replaceChildren(copy); $('.iv-zoom-name').textContent = picture.alt;
  $('.iv-zoom').setAttribute('aria-label', picture.alt); $('.iv-zoom').showModal();
}

function show_settings(shown) {
  const panel = settings();
  if (!panel) return;
  panel.classList.toggle('iv-open', shown); panel.inert = !shown;
  $('[data-act=settings]').setAttribute('aria-expanded', String(shown));
  document.body.classList.toggle('iv-beside', shown);
  if (shown) panel.querySelector('button, input')?.focus(); else $('[data-act=settings]').focus();
}

const is_dark = () => document.body.classList.contains('dark');
function name_theme() { const button = $('[data-act=theme]'); button.dataset.label = is_dark() ? 'light' : 'dark'; button.title = say(button.dataset.label); button.setAttribute('aria-label', button.title); button.setAttribute('aria-pressed', String(is_dark())); }
function theme(dark) { document.body.classList.toggle('dark', dark); document.documentElement.style.colorScheme = dark ? 'dark' : 'light'; name_theme(); }

// ---- what is pressed ------------------------------------------------------------------------------------------------

const acts = {
  new: () => { cancel(); trigger('new'); text.focus(); },
  share: () => trigger('save'),  // the library keeps the name share to itself
  language: () => { const next = sight.language === 'zh' ? 'en' : 'zh'; store('language', next); trigger('speak', { language: next }); },
  theme: () => { theme(!is_dark()); store('theme', is_dark() ? 'dark' : 'light'); },
  settings: () => show_settings(!settings()?.classList.contains('iv-open')),
  sign_out: () => { const leave = make('form', { method: 'post', action: 'sign-out' }); document.body.append(leave); leave.submit(); },
  attach: () => $('.iv-pick').click(),
  camera: open_camera, snap,
  close: (button) => button.closest('dialog').close(),
  stop: () => trigger('stop'),
  cancel,
  remove: (button) => { attached.splice(Number(button.dataset.place), 1); draw_files(); text.focus(); },
  example: (button) => { if (!busy) { await_answer(); trigger('example', { number: Number(button.dataset.number) }); } },
  again: () => { if (!busy) { await_answer(); trigger('again'); } },
  undo: () => { if (!busy) trigger('undo'); },
  edit: (button) => { if (!busy) edit(Number(button.dataset.turn)); },
  tiles: (button) => trigger('tiles', { turn: Number(button.dataset.turn) }),
  copy: async (button) => {
    try { await navigator.clipboard.writeText(button.closest('.iv-item').querySelector('.iv-text').innerText); $('.iv-said').textContent = say('copied'); button.classList.add('iv-done'); setTimeout(() => button.classList.remove('iv-done'), 1500); } catch { /* not allowed */ }
  },
  vote: (button) => {
    const turn = Number(button.dataset.turn), vote = button.dataset.word;
    if (vote === 'up') { trigger('vote', { turn, vote, reason: '' }); return; }
    reasonFor = { turn, vote }; $('#iv-reason').value = ''; $('.iv-reason').showModal(); $('#iv-reason').focus();
  },
  reason: () => { trigger('vote', { ...reasonFor, reason: $('#iv-reason').value }); $('.iv-reason').close(); },
};

element.addEventListener('click', (event) => {
  const picture = event.target.closest('.iv-on img, .iv-on svg');
  if (picture && !event.target.closest('.iv-zoom')) { zoom(picture.closest('.iv-on').querySelector('img')); return; }
  const button = event.target.closest('[data-act]');
  if (button && acts[button.dataset.act]) acts[button.dataset.act](button);
});
form.addEventListener('submit', (event) => { event.preventDefault(); send(); });
text.addEventListener('input', grow);
text.addEventListener('keydown', (event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229) { event.preventDefault(); send(); } });
$('.iv-pick').addEventListener('change', (event) => { attach(Array.from(event.target.files)); event.target.value = ''; });
$('.iv-camera').addEventListener('close', () => { camera?.getTracks().forEach((track) => track.stop()); camera = null; });
element.addEventListener('keydown', (event) => {
  if ((event.key === 'Enter' || event.key === ' ') && event.target.matches('.iv-shown img[tabindex]')) { event.preventDefault(); zoom(event.target); }
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || document.querySelector('dialog[open]')) return;
  if (busy) trigger('stop'); else if (editing !== null) cancel(); else if (settings()?.classList.contains('iv-open')) show_settings(false);
});
document.addEventListener('paste', (event) => {
  const pasted = Array.from(event.clipboardData?.files || []);
  if (pasted.length) { event.preventDefault(); attach(pasted); }
});
let inside = 0;
const dragged = (event) => Array.from(event.dataTransfer?.types || []).includes('Files');
document.addEventListener('dragenter', (event) => { if (dragged(event)) { inside += 1; $('.iv-drop').hidden = false; } });
document.addEventListener('dragleave', (event) => { if (dragged(event)) { inside = Math.max(0, inside - 1); if (!inside) $('.iv-drop').hidden = true; } });
document.addEventListener('dragover', (event) => { if (dragged(event)) event.preventDefault(); });
document.addEventListener('drop', (event) => { if (dragged(event)) { event.preventDefault(); inside = 0; $('.iv-drop').hidden = true; attach(Array.from(event.dataTransfer.files)); } });
for (const kind of ['mouseover', 'mouseout', 'focusin', 'focusout']) element.addEventListener(kind, (event) => {
  const over = kind === 'mouseover' || kind === 'focusin';
  const chip = event.target.closest('[data-regions], [data-region]');
  const item = chip?.closest('.iv-item');
  if (!chip || !item) return;
  const numbers = (chip.dataset.regions || chip.dataset.region).split(' ');
  item.querySelectorAll('[data-region]').forEach((one) => one.classList.toggle('iv-lit', over && numbers.includes(one.dataset.region)));
  item.classList.toggle('iv-pointing', over);
});
window.addEventListener('scroll', () => { following = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 120; }, { passive: true });

// ---- at first -------------------------------------------------------------------------------------------------------

const panel = settings();
if (panel) {
  panel.setAttribute('role', 'complementary'); panel.inert = true;
  const close = make('button', { type: 'button', className: 'iv-act' }, make('span', { className: 'iv-icon i-close' }));
  close.addEventListener('click', () => show_settings(false));
  panel.prepend(make('div', { className: 'iv-settings-head' }, make('h2'), close));
}
new ResizeObserver(() => { root.style.setProperty('--iv-ask', form.offsetHeight + 'px'); }).observe(form);
const wanted = store('theme');
if (wanted) theme(wanted === 'dark'); else name_theme();
watch('value', draw);
trigger('speak', { language: store('language') || navigator.language || 'en' });
