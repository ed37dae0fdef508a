/*
 * The page around upload.js: takes files, draws the queue, says what went wrong.
 * What comes from outside (names, answers, errors) is written as text and nothing else.
 */
'use strict';

const find = (selector, within = document) => within.querySelector(selector);

// Words.

const tag = navigator.languages.find((tag) => /^(zh|en)/i.test(tag)) ?? 'en';
const hant = /^zh-(hant|tw|hk|mo)/i.test(tag) ? 'zh-Hant' : 'zh-Hans';
const language = /^zh/i.test(tag) ? hant : 'en';
const say = (word, ...values) => WORDS[language][word].replace(/{}/g, () => values.shift());

document.documentElement.lang = language;
for (const element of document.querySelectorAll('[data-text]')) {
	element.textContent = say(element.dataset.text);
}
const TITLE = (document.title = say('title'));

/** Why an upload failed or was interrupted, and what became of the object. */
function sentence({ file, stored }, error) {
	const { code, status, limit, types } = error;
	const other = !status ? 'Unexpected' : error.stored ? 'CallbackFailed' : status >= 500 ? 5 : 4;
	// Only errors begin with a capital.
	const word = /^[A-Z]/.test(code) && WORDS.en[code] ? code : other;
	const texts = [say(word, types ? typeName(file.type, file.name) : sizeText(limit))];
	if (types) texts.push(allowedText(types));
	if (!/^(CallbackFailed|ProbablyStored)$/.test(word)) texts.push(storedText(stored));
	return texts.filter(Boolean).join(' ');
}

/** What became of the object, if not nothing. */
const storedText = (stored) =>
	stored === 'yes' ? say('CallbackFailed') : stored === 'maybe' ? say('maybe') : '';

function sizeText(bytes = 0) {
	let unit = 0;
	for (; Math.round(bytes) >= 1024 && unit < 3; unit += 1) bytes /= 1024;
	const shown = bytes < 9.95 ? Math.round(bytes * 10) / 10 : Math.round(bytes);
	return `${shown} ${['B', 'KB', 'MB', 'GB'][unit]}`;
}

/** Bytes a second and time left, each only if it says something. */
function speedTexts(rate, left) {
	const texts = rate ? [`${sizeText(rate)}/s`] : [];
	const seconds = Math.ceil(left);
	const [unit, length] =
		seconds < 60 ? ['second', 1] : seconds <= 59 * 60 ? ['minute', 60] : ['hour', 3600];
	const count = Math.ceil(seconds / length);
	if (count < 100) texts.push(say('left', count.toLocaleString(language, { style: 'unit', unit })));
	return texts;
}

/** Types that people know by another name than the standard's. */
const TYPES = [
	[/ml\.document$/, 'Word (.docx)'],
	[/msword$/, 'Word (.doc)'],
	[/ml\.sheet$/, 'Excel (.xlsx)'],
	[/ms-excel$/, 'Excel (.xls)'],
	[/ml\.presentation$/, 'PowerPoint (.pptx)'],
	[/ms-powerpoint$/, 'PowerPoint (.ppt)'],
	[/^text\/plain$/, 'TXT'],
	[/quicktime$/, 'MOV'],
	[/^audio\/mpeg$/, 'MP3'],
];
const suffixOf = (name) => /[^/]\.(\w{1,5})$/.exec(name)?.[1].toUpperCase();

/** As people call it; by the name's suffix where the browser knows no type. */
function typeName(type, name = '') {
	if (!type) return suffixOf(name) ?? say('unknown');
	const [kind, subtype] = type.split('/');
	if (!subtype || subtype === '*') return /^(image|video|audio|text)$/.test(kind) ? say(kind) : type;
	const known = TYPES.find(([pattern]) => pattern.test(type));
	return known?.[1] ?? subtype.replace(/^(x-|vnd\.)+|\+.*$/g, '').toUpperCase();
}

const allowed = (types) =>
	types.flatMap(([operator, operand]) =>
		operator === 'starts-with' ? `${operand}*` : operator === 'not-in' ? [] : operand
	);

function allowedText(types) {
	const names = new Set(allowed(types).map((type) => typeName(type)));
	return names.size ? say('only', [...names].join(', ')) : '';
}

// The queue: a row an upload, drawn at most every 50 ms.

const uploader = createUploader({
	server: find('meta[name=server]').content || new URL('.', location).href,
	ticket: () => new URLSearchParams(location.hash.slice(1) || location.search).get('ticket'),
	onchange: changed,
	onlimits: showLimits,
});
const rows = new Map();
const stale = new Set();
const ended = new Set();
let drawing = 0;
let telling = 0;

const isActive = ({ state }) => !['done', 'failed', 'cancelled'].includes(state);
const mayRetry = ({ state, error }) =>
	state === 'cancelled' || (state === 'failed' && !error.refused);
/** The state as it is shown. */
const shown = ({ state, pause, stored }) =>
	pause || (state === 'failed' && stored !== 'no' ? 'unconfirmed' : state);

function changed(upload) {
	stale.add(upload);
	drawing ||= setTimeout(draw, 50);
	if (isActive(upload)) return;
	ended.add(upload);
	telling ||= setTimeout(tell, 1000);
}

function draw() {
	drawing = 0;
	for (const upload of stale) (rows.get(upload) ?? new Row(upload)).draw();
	stale.clear();
	const sum = uploader.total();
	const { files, done, failed, unconfirmed, cancelled, active, size, loaded, rate, rest } = sum;
	const share = size ? loaded / size : done / (files || 1);
	const texts = [say('sum', done, files)];
	for (const state of ['failed', 'unconfirmed', 'cancelled']) {
		if (sum[state]) texts.push(`${say(state)}: ${sum[state]}`);
	}
	texts.push(...speedTexts(rate, rest / rate));
	find('#queue').hidden = !rows.size;
	find('#sum').textContent = texts.join(' · ');
	find('#total').value = share;
	const bad = failed ? 'failed' : unconfirmed ? 'unconfirmed' : cancelled ? 'cancelled' : '';
	find('header').dataset.state = active ? 'uploading' : bad || 'done';
	show(find('#retry-all'), uploader.uploads.some(mayRetry));
	show(find('#cancel-all'), active);
	show(find('#clear'), rows.size > active);
	document.title = (active ? `${Math.floor(share * 100)}% · ` : '') + TITLE;
	window.onbeforeunload = active ? (event) => event.preventDefault() : null;
}

/** Tells those who do not see the rows what ended, in sum if it is much. */
function tell() {
	telling = 0;
	const texts = [...ended].map((upload) => {
		const why = upload.error && sentence(upload, upload.error);
		return [upload.name, say(shown(upload)), why].filter(Boolean).join(' · ');
	});
	find('#news').textContent = texts.length > 2 ? find('#sum').textContent : texts.join('; ');
	ended.clear();
}

/** Shows or hides a button; the focus does not vanish with it. */
function show(button, visible) {
	const focused = document.activeElement === button;
	button.hidden = !visible;
	if (focused && !visible) focusNear(button.closest('li'));
}

const focusNear = (li) => (li ? find('.stop', li) : find('#choose')).focus();

class Row {
	constructor(upload) {
		this.upload = upload;
		this.li = find('#row').content.cloneNode(true).firstElementChild;
		for (const name of ['thumb', 'name', 'bar', 'state', 'text', 'more', 'again', 'stop', 'facts']) {
			this[name] = find(`.${name}`, this.li);
		}
		this.more.onclick = () => {
			this.facts.hidden = !this.facts.hidden;
			this.more.ariaExpanded = !this.facts.hidden;
			this.drawFacts();
		};
		this.again.onclick = () => uploader.retry(upload);
		this.stop.onclick = () => (isActive(upload) ? uploader.cancel(upload) : this.remove());
		this.thumb.textContent = suffixOf(upload.file.name) ?? '';
		this.li.row = this;
		rows.set(upload, this);
		find('#rows').append(this.li);
		if (upload.file.type.startsWith('image/')) pictures.observe(this.li);
	}

	draw() {
		const { upload } = this;
		const { state, pause, error, file, loaded, rate, left, answer, stored, name, key } = upload;
		const size = sizeText(file.size);
		let text = size;
		if (state === 'uploading') {
			text = [`${sizeText(loaded)} / ${size}`, ...speedTexts(rate, left)].join(' · ');
		} else if (state === 'done') {
			text = say(answer === undefined ? 'stored' : 'verified', size);
		} else if (state === 'failed' || pause === 'retry') {
			text = sentence(upload, error);
		} else if (state === 'cancelled' && stored !== 'no') {
			text = storedText(stored);
		}
		this.li.dataset.state = shown(upload);
		this.bar.value = file.size ? loaded / file.size : Number(state === 'done');
		this.name.textContent = this.name.title = this.bar.ariaLabel = name;
		this.state.textContent = say(shown(upload));
		this.text.textContent = text;
		this.more.ariaLabel = this.facts.ariaLabel = say('details', name);
		this.again.ariaLabel = say('again', name);
		this.stop.ariaLabel = say(isActive(upload) ? 'stop' : 'remove', name);
		this.drawFacts();
		show(this.more, (key || error) && (!isActive(upload) || pause || !this.facts.hidden));
		show(this.again, pause || mayRetry(upload));
	}

	/** What only some want to know, while it is open. */
	drawFacts() {
		const { key, url, stored, error, answer } = this.upload;
		const { code, message, ec, requestId } = error ?? {};
		const facts = { key, code: ec ? `${code} ${ec}` : code, message, requestId };
		if (stored !== 'no') facts.url = url;
		if (answer !== undefined) facts.answer = JSON.stringify(answer, null, 2);
		const told = JSON.stringify(facts);
		if (this.facts.hidden || this.told === told) return;
		this.told = told;
		const list = find('dl', this.facts);
		list.replaceChildren();
		for (const word of ['key', 'url', 'answer', 'code', 'message', 'requestId']) {
			if (!facts[word]) continue;
			const [label, value, text] = ['dt', 'dd', 'span'].map((name) => document.createElement(name));
			label.textContent = say(word);
			text.textContent = facts[word];
			value.append(text);
			if (word === 'key' || word === 'url') value.append(' ', copyButton(text, say(word)));
			list.append(label, value);
		}
	}

	/** The picture, in a canvas of the size that it is shown at, twice for sharp screens. */
	async drawPicture() {
		if (!rows.has(this.upload)) return;
		const bitmap = await createImageBitmap(this.upload.file).catch(() => null);
		if (!bitmap) return;
		const canvas = document.createElement('canvas');
		canvas.width = canvas.height = 96;
		const scale = 96 / Math.min(bitmap.width, bitmap.height);
		const [width, height] = [bitmap.width * scale, bitmap.height * scale];
		const context = canvas.getContext('2d', { willReadFrequently: true });
		// The mean of 16 samples a pixel: better smoothing takes a third more memory.
		context.translate((96 - width) / 2, (96 - height) / 2);
		for (let i = 0; i < 16; i += 1) {
			context.globalAlpha = 1 / (i + 1);
			context.drawImage(bitmap, (i % 4) / 4, (i >> 2) / 4, width, height);
		}
		bitmap.close();
		this.thumb.replaceChildren(canvas);
	}

	remove() {
		const near = this.li.nextElementSibling ?? this.li.previousElementSibling;
		const focused = this.li.contains(document.activeElement);
		uploader.remove(this.upload);
		stale.delete(this.upload);
		this.li.remove();
		rows.delete(this.upload);
		drawing ||= setTimeout(draw, 50);
		if (focused) focusNear(near);
	}
}

/** Rows with a picture that come into view: decoded one at a time, since one takes 50 MB. */
let decoding = Promise.resolve();
const pictures = new IntersectionObserver((entries) => {
	for (const { target, isIntersecting } of entries) {
		if (!isIntersecting) continue;
		pictures.unobserve(target);
		decoding = decoding.then(() => target.row.drawPicture()).catch(reportError);
	}
}, { rootMargin: '400px' });

function copyButton(text, what) {
	const button = document.createElement('button');
	button.textContent = say('copy');
	button.ariaLabel = `${say('copy')}: ${what}`;
	button.onclick = async () => {
		try {
			await navigator.clipboard.writeText(text.textContent);
		} catch {
			getSelection().selectAllChildren(text); // a page without TLS has no clipboard
			if (!document.execCommand('copy')) return;
		}
		find('#news').textContent = button.textContent = say('copied');
	};
	return button;
}

// Ways in.

const pathOf = (item) => item.path || item.webkitRelativePath || (item.file ?? item).name;
const order = new Intl.Collator(language, { numeric: true });

function add(files) {
	const sorted = [...files].sort((a, b) => order.compare(pathOf(a), pathOf(b)));
	const random = find('[name=names]:checked').value === 'random';
	uploader.add(sorted, { random, folder: find('#folder').value.trim() });
}

for (const input of [find('#files'), find('#folder-files')]) {
	input.previousElementSibling.onclick = () => input.click();
	input.onchange = () => {
		add(input.files);
		input.value = ''; // so that the same file can be chosen again
	};
}
find('#retry-all').onclick = () => uploader.retry();
find('#cancel-all').onclick = () => uploader.cancel();
find('#clear').onclick = () => rows.forEach((row) => isActive(row.upload) || row.remove());
// On a phone the queue is worth more space.
const narrow = matchMedia('(max-width: 34rem)');
(narrow.onchange = () => (find('#naming').open = !narrow.matches))();

const dragging = (over) => document.body.classList.toggle('dragging', over);
const holdsFiles = (event) => event.dataTransfer?.types.includes('Files');
addEventListener('dragover', (event) => {
	if (!holdsFiles(event)) return;
	event.preventDefault();
	dragging(true);
});
addEventListener('dragleave', (event) => event.relatedTarget || dragging(false));
addEventListener('drop', async (event) => {
	dragging(false);
	if (!holdsFiles(event)) return;
	event.preventDefault();
	add(await uploader.filesOf(event.dataTransfer));
});
addEventListener('paste', (event) => {
	const { files } = event.clipboardData;
	if (!files.length) return;
	event.preventDefault();
	// Every picture on a clipboard has this name: tomorrow's would take the place of today's.
	const named = (file) =>
		file.name === 'image.png' ? new File([file], `image-${Date.now()}.png`, file) : file;
	add(Array.from(files, named));
});

// What may be uploaded, as the server's policy says; or why there is none.

function showLimits(limits, error) {
	const line = find('#limits');
	line.className = error ? 'bad' : '';
	if (error) line.textContent = sentence({}, error);
	if (error) return;
	const texts = [say('upTo', sizeText(limits.max)), allowedText(limits.types)];
	line.textContent = texts.filter(Boolean).join(' · ');
	find('#files').accept = allowed(limits.types).join();
}

const refresh = () => uploader.refresh().catch(() => {}); // told by showLimits
addEventListener('hashchange', refresh); // with another ticket
refresh();
