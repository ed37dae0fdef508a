/*
 * The page around upload.js: takes files in, draws the queue, says in words what went wrong.
 * What comes from outside (names, answers, errors) is written as text and nothing else.
 */
'use strict';

// English and Chinese; `{}` takes a value. Where there is no English, it stands in index.html.
const WORDS = {
	title: [, '上传文件'],
	hint: [, '将文件或文件夹拖到页面任意位置、直接粘贴，或者'],
	choose: [, '选择文件'],
	chooseFolder: [, '选择文件夹'],
	names: [, '存储名称'],
	local: [, '保持本地文件名'],
	random: [, '随机文件名，保留后缀'],
	folder: [, '目录（可选）'],
	files: [, '文件'],
	retryAll: [, '重试失败项'],
	cancelAll: [, '全部取消'],
	clear: [, '清除已结束'],

	waiting: ['Waiting', '等待中'],
	signing: ['Signing', '获取签名'],
	uploading: ['Uploading', '上传中'],
	verifying: ['Verifying', '验证中'],
	done: ['Done', '完成'],
	failed: ['Failed', '失败'],
	cancelled: ['Cancelled', '已取消'],
	retry: ['Interrupted, trying again soon', '已中断，即将重试'],
	offline: ['Waiting for the network', '等待网络恢复'],

	upTo: ['Up to {} a file', '每个文件最大 {}'],
	only: ['{} only', '仅限 {}'],
	sum: ['{} of {} done', '已完成 {} / {}'],
	part: ['{} of {}', '{} / {}'],
	left: ['{} left', '剩余 {}'],
	verified: ['{} · verified by the server', '{} · 已通过服务器验证'],
	stored: ['{} · stored, no callback is set up', '{} · 已存储，未设置回调'],
	details: ['Details of {}', '{} 的详情'],
	again: ['Try {} again', '重试 {}'],
	stop: ['Cancel {}', '取消 {}'],
	remove: ['Remove {}', '移除 {}'],
};

// Why an upload fails, by code.
const ERRORS = {
	AccessDenied: ['The bucket denies access.', '存储空间拒绝访问。'],
	CallbackFailed: ['Stored, but not registered: the server did not confirm it.', '已存储但未登记：服务器未确认。'],
	EntityTooLarge: ['Too large: {} at most.', '文件过大，最大 {}。'],
	EntityTooSmall: ['Too small: {} at least.', '文件过小，最小 {}。'],
	FileAlreadyExists: ['The name is taken and may not be replaced.', '同名文件已存在，不能覆盖。'],
	InvalidAccessKeyId: ['OSS does not know the server’s access key.', '服务器的 AccessKey 无效。'],
	NetworkError: ['The bucket is out of reach, or its CORS rule refuses this page.', '无法连接存储空间，或跨域规则不允许此页面。'],
	NoSuchBucket: ['The bucket does not exist.', '存储空间不存在。'],
	NotAllowed: ['You may not upload here. Please sign in again.', '您无权上传，请重新登录。'],
	PolicyExpired: ['The permission to upload ran out.', '上传许可已过期。'],
	PolicyMismatch: ['The server’s policy does not allow this upload.', '服务器的策略不允许此上传。'],
	QuotaExceeded: ['The bucket is full.', '存储空间已满。'],
	RequestTimeTooSkewed: ['The server’s clock is wrong.', '服务器的时间不准确。'],
	SecurityTokenExpired: ['The server’s credentials ran out.', '服务器的临时凭证已过期。'],
	ServerError: ['The server has a problem.', '服务器出现问题。'],
	ServerGone: ['The server is out of reach.', '无法连接服务器。'],
	SignatureDoesNotMatch: ['The server’s access key secret is wrong.', '服务器的签名不正确。'],
	Stalled: ['The transfer came to a halt.', '传输停滞。'],
	Unreadable: ['The file cannot be read; was it moved or changed?', '无法读取文件，可能已被移动或修改。'],
	WrongType: ['Files of this type are not allowed.', '不允许此类型的文件。'],
	5: ['OSS has a problem. Try again later.', 'OSS 出现故障，请稍后重试。'],
	4: ['OSS refused the upload.', 'OSS 拒绝了此次上传。'],
};

const find = (selector, within = document) => within.querySelector(selector);
const chinese = /^zh/i.test(navigator.languages.find((tag) => /^(zh|en)/i.test(tag)));
const pick = (pair, values) => pair[Number(chinese)].replace(/{}/g, () => values.shift());
const say = (word, ...values) => pick(WORDS[word], values);
const sentence = ({ code, status, stored, limit }) => {
	const other = stored ? 'CallbackFailed' : status >= 500 ? 5 : 4;
	return pick(ERRORS[code] ?? ERRORS[other], [sizeText(limit)]);
};

if (chinese) {
	document.documentElement.lang = 'zh-CN';
	document.title = say('title');
	for (const element of document.querySelectorAll('[data-text]')) {
		element.textContent = say(element.dataset.text);
	}
}
const TITLE = document.title;

function sizeText(bytes = 0) {
	let unit = 0;
	for (; bytes >= 1024 && unit < 3; unit += 1) bytes /= 1024;
	const digits = bytes < 10 && bytes % 1 ? 1 : 0;
	return `${bytes.toFixed(digits)} ${['B', 'KB', 'MB', 'GB'][unit]}`;
}

/** Bytes a second and seconds left, nothing while unknown. */
function speedTexts(rate, left) {
	if (!rate || left === Infinity) return [];
	const [unit, length] = left < 60 ? ['second', 1] : left < 3600 ? ['minute', 60] : ['hour', 3600];
	const time = Math.ceil(left / length).toLocaleString(chinese ? 'zh' : 'en', { style: 'unit', unit });
	return [`${sizeText(rate)}/s`, say('left', time)];
}

// The queue: a row an upload, drawn at most every 50 ms.

const server = find('meta[name=server]').content || new URL('.', location).href;
const uploader = createUploader({
	server: server.replace(/\/$/, ''),
	ticket: () => new URLSearchParams(location.hash.slice(1) || location.search).get('ticket'),
	onchange: changed,
});
const rows = new Map();
const stale = new Set();
const ended = new Set();
let drawing = 0;
let telling = 0;

function changed(upload) {
	stale.add(upload);
	drawing ||= setTimeout(draw, 50);
	if (upload.state !== 'done' && upload.state !== 'failed') return;
	ended.add(upload);
	telling ||= setTimeout(tell, 1000);
}

function draw() {
	drawing = 0;
	for (const upload of stale) (rows.get(upload) ?? new Row(upload)).draw();
	stale.clear();
	const { files, done, failed, active, size, loaded, rate } = uploader.total();
	const share = size ? loaded / size : Number(!active);
	const texts = [say('sum', done, files + failed), ...speedTexts(rate, (size - loaded) / rate)];
	find('#queue').hidden = !rows.size;
	find('#sum').textContent = texts.join(' · ');
	find('#total').value = share;
	show(find('#retry-all'), uploader.uploads.some(mayRetry));
	show(find('#cancel-all'), active);
	show(find('#clear'), rows.size > active);
	document.title = (active ? `${Math.floor(share * 100)}% · ` : '') + TITLE;
	window.onbeforeunload = active ? (event) => event.preventDefault() : null;
}

/** Tells those who do not see the rows what ended, in sum if it is much. */
function tell() {
	telling = 0;
	const texts = [...ended].map(({ name, state, error }) =>
		[name, say(state), error && sentence(error)].filter(Boolean).join(' · ')
	);
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
const mayRetry = ({ state, error }) => state === 'failed' && !error.refused;

class Row {
	constructor(upload) {
		this.upload = upload;
		this.li = find('#row').content.cloneNode(true).firstElementChild;
		for (const name of ['thumb', 'name', 'bar', 'state', 'text', 'code', 'more', 'again', 'stop', 'facts']) {
			this[name] = find(`.${name}`, this.li);
		}
		const { name } = upload;
		this.name.textContent = this.name.title = this.bar.ariaLabel = name;
		this.more.ariaLabel = this.facts.ariaLabel = say('details', name);
		this.again.ariaLabel = say('again', name);
		this.more.onclick = () => {
			this.facts.hidden = !this.facts.hidden;
			this.more.ariaExpanded = !this.facts.hidden;
		};
		this.again.onclick = () => uploader.retry(upload);
		this.stop.onclick = () => (this.active ? uploader.cancel(upload) : this.remove());
		this.showThumb();
		rows.set(upload, this);
		find('#rows').append(this.li);
	}

	get active() {
		return !['done', 'failed', 'cancelled'].includes(this.upload.state);
	}

	/** The picture, or what the name ends with. */
	showThumb() {
		const { file } = this.upload;
		const suffix = /\.(\w{1,4})$/.exec(file.name)?.[1].toUpperCase() ?? '';
		this.thumb.textContent = suffix;
		if (!file.type.startsWith('image/')) return;
		const url = URL.createObjectURL(file);
		this.free = () => URL.revokeObjectURL(url);
		const image = new Image(48, 48);
		// Lazily: large pictures of a folder must not all be decoded at once.
		Object.assign(image, { loading: 'lazy', decoding: 'async', alt: '', src: url, onload: this.free });
		image.onerror = () => {
			image.replaceWith(suffix);
			this.free();
		};
		this.thumb.replaceChildren(image);
	}

	draw() {
		const { state, pause, error, file, loaded, rate, left, answer, key, name } = this.upload;
		const size = sizeText(file.size);
		let text = size;
		let code = error?.code;
		if (state === 'uploading') {
			text = [say('part', sizeText(loaded), size), ...speedTexts(rate, left)].join(' · ');
		} else if (state === 'done') {
			text = say(answer === undefined ? 'stored' : 'verified', size);
			code = JSON.stringify(answer)?.slice(0, 80);
		} else if (state === 'failed') {
			text = sentence(error);
		}
		this.li.dataset.state = pause || state;
		this.bar.value = file.size ? loaded / file.size : Number(state === 'done');
		this.state.textContent = say(pause || state);
		this.text.textContent = text;
		this.code.textContent = state === 'done' || state === 'failed' || pause ? code : '';
		const facts = [key, error?.message, error?.ec, error?.requestId, JSON.stringify(answer, null, 2)];
		this.facts.textContent = facts.filter(Boolean).join('\n');
		show(this.more, state === 'done' || mayRetry(this.upload));
		show(this.again, pause || state === 'cancelled' || mayRetry(this.upload));
		this.stop.ariaLabel = say(this.active ? 'stop' : 'remove', name);
	}

	remove() {
		const near = this.li.nextElementSibling ?? this.li.previousElementSibling;
		const focused = this.li.contains(document.activeElement);
		uploader.remove(this.upload);
		stale.delete(this.upload);
		this.free?.();
		this.li.remove();
		rows.delete(this.upload);
		drawing ||= setTimeout(draw, 50);
		if (focused) focusNear(near);
	}
}

// Ways in.

function add(files) {
	const random = find('[name=names]:checked').value === 'random';
	uploader.add(files, { random, folder: find('#folder').value.trim() });
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
find('#clear').onclick = () => rows.forEach((row) => row.active || row.remove());

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
	// Every picture on a clipboard has this name: the next one would take its place.
	const named = (file) =>
		file.name === 'image.png' ? new File([file], `image-${Date.now()}.png`, file) : file;
	add(Array.from(files, named));
});

// What may be uploaded, as the server's policy says.
uploader.limits().then(
	({ max, types }) => {
		const allowed = types.flatMap(([operator, operand]) =>
			operator === 'starts-with' ? `${operand}*` : operator === 'not-in' ? [] : operand
		);
		const names = allowed.map((type) => type.replace(/^\w+\/(?=[\w-]+$)/, '').toUpperCase());
		const texts = [say('upTo', sizeText(max)), names.length && say('only', names.join(', '))];
		find('#limits').textContent = texts.filter(Boolean).join(' · ');
		find('#files').accept = allowed.join();
	},
	(error) => {
		find('#limits').className = 'bad';
		find('#limits').textContent = sentence(error);
	}
);
