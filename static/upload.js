// @ts-check
/*
 * Uploads files from the browser to an OSS bucket, under policies that the server signs. Draws
 * nothing. Options, methods and types are described in upload.d.mts.
 * What the network says is data: never evaluated, never made HTML.
 */

/**
 * @import { FoundFile, Limits, Options, State, Failure, Upload, Uploader } from './upload.mjs'
 * @typedef {{url: string, fields: Record<string, string>, limits: Limits, until: number}} Policy
 * @typedef {{stop: AbortController, wake: () => void}} Job
 * @typedef {{folder: string, path: string, random: string, fields: Record<string, string>,
 *   signal?: AbortSignal}} Placement
 */

/** @param {Options} [given] @returns {Uploader} */
function createUploader(given) {
	'use strict';

	const options = {
		server: '',
		path: '/get_post_signature_for_oss_upload',
		parallel: 3,
		retries: 8,
		backoff: 1000,
		stall: 30_000,
		.../** @type {Options} */ ({}),
	};
	for (const [name, value] of Object.entries(given ?? {})) {
		if (value !== undefined && value !== null) Object.assign(options, { [name]: value });
	}
	const MAX_OBJECT_BYTES = 5 * 2 ** 30;
	const MAX_PAUSE = 30_000;
	/** Milliseconds that a rate is measured over. */
	const WINDOW = 5000;
	/** V4 dates may be 15 minutes off, so no policy is kept longer, whatever its expiry. */
	const MAX_POLICY_SECONDS = 600;
	/** Tried once more at once, with a fresh policy. */
	const RENEWABLE = ['PolicyExpired', 'RequestTimeTooSkewed', 'SecurityTokenExpired'];
	/** Which state may follow which. @type {Record<State, State[]>} */
	const FOLLOWS = {
		waiting: ['signing', 'failed', 'cancelled'],
		signing: ['uploading', 'waiting', 'done', 'failed', 'cancelled'],
		uploading: ['verifying', 'waiting', 'done', 'failed', 'cancelled'],
		verifying: ['waiting', 'done', 'failed', 'cancelled'],
		done: [],
		failed: ['waiting'],
		cancelled: ['waiting'],
	};

	/** @type {Upload[]} */
	const uploads = [];
	/** Those at work. @type {Map<Upload, Job>} */
	const jobs = new Map();
	/** What `add` was asked for. @type {WeakMap<Upload, Placement>} */
	const placements = new WeakMap();
	/** Targets in use, folded, and the uploads that hold theirs. @type {Set<string>} */
	const taken = new Set();
	/** @type {WeakSet<Upload>} */
	const holders = new WeakSet();
	/** The last number given to a name. @type {Map<string, number>} */
	const numbers = new Map();
	/** @type {((uploads: Upload[]) => void)[]} */
	const waiters = [];
	/** @type {Policy|null} */
	let current = null;
	/** @type {Promise<Policy>|null} */
	let asking = null;
	/** Aborted by `destroy`: no listener outlives it. */
	const lifetime = new AbortController();

	const listen = { signal: lifetime.signal };
	addEventListener('online', () => jobs.forEach((job) => job.wake()), listen);

	// Callbacks: an exception of theirs is reported, and stops nothing here.

	/** @param {() => void} callback */
	function call(callback) {
		try {
			callback();
		} catch (error) {
			reportError(error);
		}
	}

	/** @param {Upload} upload */
	const notify = (upload) => call(() => options.onchange?.(upload));

	/** Waits, but not for ever. @template T @param {(() => T|Promise<T>)|undefined} callback */
	async function result(callback) {
		const late = new Promise((_, reject) => setTimeout(reject, options.stall, Error('too late')));
		return Promise.race([(async () => callback?.())(), late]);
	}

	// States.

	/** @param {State} state */
	const isEnd = (state) => state === 'done' || state === 'failed' || state === 'cancelled';

	/** @param {Upload} upload @param {State} state @param {Partial<Upload>} [more] */
	function enter(upload, state, more) {
		if (!FOLLOWS[upload.state].includes(state)) throw Error(`${upload.state} to ${state}`);
		Object.assign(upload, { pause: '', rate: 0, left: Infinity }, more, { state });
		if (isEnd(state) && upload.stored === 'no') release(upload);
		notify(upload);
		settle();
	}

	function settle() {
		if (!waiters.length || !uploads.every(({ state }) => isEnd(state))) return;
		for (const resolve of waiters.splice(0)) resolve([...uploads]);
	}

	/** Starts what waits, `parallel` at a time. A paused upload counts: while the bucket is away, the
	 * rest of the queue does not try it. */
	function fill() {
		for (const upload of uploads) {
			if (jobs.size >= options.parallel) return;
			if (upload.state !== 'waiting' || jobs.has(upload)) continue;
			const job = { stop: new AbortController(), wake: () => {} };
			jobs.set(upload, job);
			run(upload, job).finally(() => {
				if (jobs.get(upload) === job) jobs.delete(upload);
				fill();
			});
		}
	}

	/** @param {Upload} upload @param {Job} job */
	async function run(upload, job) {
		for (let renewed = false; ; ) {
			try {
				const answer = await attempt(upload, job);
				return succeed(upload, answer);
			} catch (/** @type {any} */ thrown) {
				if (job.stop.signal.aborted) return;
				const ours = typeof thrown?.code === 'string';
				/** @type {Failure} */
				const error = ours ? thrown : { code: 'Unexpected', message: `${thrown}` };
				if (!error.refused) current = null; // the next try begins with a fresh policy
				noteStored(upload, error);
				if (RENEWABLE.includes(error.code) && !renewed) {
					renewed = true;
					enter(upload, 'waiting', { loaded: 0 });
				} else if (error.again && upload.tries < options.retries) {
					await pause(upload, job, error);
				} else {
					return fail(upload, job, error);
				}
				if (job.stop.signal.aborted) return;
			}
		}
	}

	/** After the last byte was sent, only a refusal says that nothing was stored.
	 * @param {Upload} upload @param {Failure} error */
	function noteStored(upload, { stored, status = 0 }) {
		const refused = status >= 400 && status < 500;
		if (stored) upload.stored = 'yes';
		else if (upload.stored === 'no' && upload.state === 'verifying' && !refused) {
			upload.stored = 'maybe';
		}
	}

	/** @param {Upload} upload @param {unknown} answer */
	function succeed(upload, answer) {
		enter(upload, 'done', { answer, error: null, stored: 'yes', loaded: upload.file.size });
	}

	/** @param {Upload} upload @param {Job} job @param {Failure} error */
	async function fail(upload, job, error) {
		// Else a record of this key is another file's.
		if (upload.stored !== 'no') {
			const answer = await result(() => options.confirm?.(upload)).catch(reportError);
			if (job.stop.signal.aborted) return;
			if ((answer ?? false) !== false) return succeed(upload, answer);
			// The object that exists is that of an earlier try.
			if (error.code === 'FileAlreadyExists') {
				const code = upload.stored === 'yes' ? 'CallbackFailed' : 'ProbablyStored';
				error = { ...error, code, stored: upload.stored === 'yes' };
			}
		}
		enter(upload, 'failed', { error, loaded: 0 });
	}

	/** Gives the answer or throws a Failure. @param {Upload} upload @param {Job} job */
	async function attempt(upload, job) {
		enter(upload, 'signing');
		// A file that was moved or changed would look like a network error below.
		await upload.file.slice(0, 1).arrayBuffer().catch(() => {
			throw { code: 'Unreadable', refused: true };
		});
		const policy = await currentPolicy();
		job.stop.signal.throwIfAborted();
		// By a function: `$&` in a string means something.
		const key = policy.fields.key.replaceAll('${filename}', () => upload.target);
		if (key !== upload.key) upload.stored = 'no'; // what an earlier try may have stored is another
		upload.key = key;
		const path = key.split('/').map(encodeURIComponent).join('/');
		upload.url = `${policy.url.replace(/\/+$/, '')}/${path}`;
		const refusal = refuse(upload, policy);
		if (refusal) throw refusal;
		enter(upload, 'uploading');
		job.stop.signal.throwIfAborted();
		return judge(await send(upload, policy, job), policy);
	}

	/** Until the network is back if it is known to be away, else for a while.
	 * @param {Upload} upload @param {Job} job @param {Failure} error */
	function pause(upload, job, error) {
		const offline = navigator.onLine === false;
		const longest = Math.min(options.backoff * 2 ** upload.tries, MAX_PAUSE);
		if (!offline) upload.tries += 1;
		return new Promise((resolve) => {
			job.wake = () => resolve(undefined);
			job.stop.signal.addEventListener('abort', job.wake);
			enter(upload, 'waiting', { pause: offline ? 'offline' : 'retry', loaded: 0, error });
			// With jitter, so that those who lost the same server do not all come back at once.
			if (!offline) setTimeout(job.wake, longest * (0.5 + Math.random() / 2));
		});
	}

	// Policies.

	/** One that lives through the start of an upload. */
	async function currentPolicy() {
		if (current && performance.now() < current.until) return current;
		if (asking) return asking;
		const mine = (asking = fetchPolicy());
		try {
			const policy = await mine;
			if (asking === mine) {
				current = policy;
				call(() => options.onlimits?.(policy.limits, null));
			}
			return policy;
		} catch (/** @type {any} */ error) {
			if (asking === mine) call(() => options.onlimits?.(null, error));
			throw error;
		} finally {
			if (asking === mine) asking = null;
		}
	}

	/** @returns {Promise<Policy>} */
	async function fetchPolicy() {
		const ticket = await result(options.ticket).catch((error) => {
			throw { code: 'TicketFailed', message: `${error}`, again: true };
		});
		const asked = performance.now();
		let response, message;
		try {
			response = await fetch(options.server.replace(/\/+$/, '') + options.path, {
				cache: 'no-store',
				headers: ticket ? { Authorization: `Bearer ${ticket}` } : {},
				signal: AbortSignal.timeout(options.stall),
			});
			message = await response.text();
		} catch {
			throw { code: 'ServerGone', again: true };
		}
		const { status } = response;
		if (!response.ok) {
			const code = status === 401 || status === 403 ? 'NotAllowed' : 'ServerError';
			throw { code, status, message, again: status >= 500 };
		}
		try {
			const { url, fields, expire, x_oss_date: date } = JSON.parse(message);
			if (!/^https?:/.test(url) || typeof fields.key !== 'string') throw 0;
			// By the server's clock alone; 0 if it is not told (V1).
			const iso = `${date}`.replace(/^(....)(..)(..T..)(..)/, '$1-$2-$3:$4:');
			const life = Math.min(expire - Date.parse(iso) / 1000, MAX_POLICY_SECONDS) || 0;
			const until = asked + (life - Math.min(10, life / 3)) * 1000;
			return { url, fields, limits: limitsOf(fields.policy), until };
		} catch {
			throw { code: 'ServerError', status, message };
		}
	}

	/** @param {string} policy in base64 @returns {Limits} */
	function limitsOf(policy) {
		const bytes = Uint8Array.from(atob(policy), (letter) => letter.charCodeAt(0));
		/** @type {Limits} */
		const limits = { min: 0, max: MAX_OBJECT_BYTES, types: [] };
		for (const condition of JSON.parse(new TextDecoder().decode(bytes)).conditions) {
			const [[operator, field, operand]] = Array.isArray(condition)
				? [condition]
				: Object.entries(condition).map(([name, value]) => ['eq', `$${name}`, value]);
			if (operator === 'content-length-range') Object.assign(limits, { min: field, max: operand });
			else if (`${field}`.toLowerCase() === '$content-type') limits.types.push([operator, operand]);
		}
		return limits;
	}

	/** Why the policy does not allow the file, if so.
	 * @param {Upload} upload @param {Policy} policy @returns {Failure|undefined} */
	function refuse({ file }, { fields, limits: { min, max, types } }) {
		const refused = true;
		if (file.size > max) return { code: 'EntityTooLarge', refused, limit: max };
		if (file.size < min) return { code: 'EntityTooSmall', refused, limit: min };
		// A file of unknown type gets that which the form carries.
		const type = file.type || fields['Content-Type'] || '';
		for (const [operator, operand] of types) {
			const fits =
				operator === 'starts-with'
					? type.startsWith(`${operand}`)
					: [operand].flat().includes(type) === (operator !== 'not-in');
			if (!fits) return { code: 'WrongType', refused, types };
		}
	}

	// Transfers.

	/** The fields as they came with the key filled in, the file last.
	 * @param {Upload} upload @param {Policy} policy */
	function formOf(upload, { fields, limits }) {
		const { file, key } = upload;
		const form = new FormData();
		/** @type {Record<string, string>} */
		const all = { ...placements.get(upload)?.fields, ...fields, key };
		for (const name in all) form.append(name, all[name]);
		if (limits.types.length && !('Content-Type' in fields)) form.append('Content-Type', file.type);
		// OSS puts this name in the place of a `${filename}` that is a part of the file's own name.
		form.append('file', file, key.includes('${filename}') ? '${filename}' : file.name);
		return form;
	}

	/** @param {Upload} upload @param {Policy} policy @param {Job} job
	 * @returns {Promise<XMLHttpRequest>} */
	function send(upload, policy, { stop: { signal } }) {
		return new Promise((resolve, reject) => {
			const request = new XMLHttpRequest();
			request.open('POST', policy.url);
			const { size } = upload.file;
			const samples = [{ time: performance.now(), loaded: 0 }];
			let timer = 0;
			let code = 'Cancelled';
			const abort = () => request.abort();
			/** @param {number} milliseconds */
			const watch = (milliseconds) => {
				clearTimeout(timer);
				timer = setTimeout(() => {
					code = 'Stalled';
					abort();
				}, milliseconds);
			};
			/** @param {number} loaded */
			const measure = (loaded) => {
				const now = performance.now();
				samples.push({ time: now, loaded });
				while (samples.length > 2 && now - samples[1].time >= WINDOW) samples.shift();
				const [first] = samples;
				const rate = ((loaded - first.loaded) / Math.max(1, now - first.time)) * 1000;
				const left = rate ? (size - loaded) / rate : Infinity;
				Object.assign(upload, { loaded, rate, left });
				notify(upload);
			};
			// Also while nothing moves, so that the rate falls.
			const clock = setInterval(() => {
				if (upload.state === 'uploading') measure(upload.loaded);
			}, 1000);

			request.upload.onprogress = (event) => {
				// The other fields come first and count as well.
				const loaded = Math.min(size, event.loaded - (event.total - size));
				if (loaded <= upload.loaded) return;
				watch(options.stall);
				measure(loaded);
			};
			request.upload.onload = () => {
				// Some may still be under way, and OSS calls back.
				watch(2 * options.stall);
				enter(upload, 'verifying', { loaded: size });
			};
			request.onload = () => resolve(request);
			request.onerror = () => reject({ code: 'NetworkError', again: true });
			request.onabort = () => reject({ code, again: true });
			request.onloadend = () => {
				clearTimeout(timer);
				clearInterval(clock);
				signal.removeEventListener('abort', abort);
			};
			signal.addEventListener('abort', abort);
			watch(options.stall);
			request.send(formOf(upload, policy));
		});
	}

	/** The callback server's answer, or undefined if the policy asks for no callback.
	 * @param {XMLHttpRequest} request @param {Policy} policy */
	function judge({ status, responseText: text }, { fields, limits }) {
		if (status >= 200 && status < 300 && status !== 203) {
			if (!fields.callback) return undefined;
			try {
				if (status === 200) return JSON.parse(text);
			} catch {}
			throw { code: 'NoAnswer', status, message: text, stored: true };
		}
		const xml = new DOMParser().parseFromString(text, 'text/xml');
		/** @param {string} name */
		const said = (name) => xml.querySelector(`Error > ${name}`)?.textContent ?? '';
		const message = said('Message');
		let code = said('Code') || (status === 203 ? 'CallbackFailed' : `HTTP ${status}`);
		if (code === 'AccessDenied' && /according to Policy/i.test(message)) {
			code = /expired/i.test(message) ? 'PolicyExpired' : 'PolicyMismatch';
		}
		/** @type {Record<string, number>} */
		const broken = { EntityTooLarge: limits.max, EntityTooSmall: limits.min };
		const told = { code, status, message, ec: said('EC'), requestId: said('RequestId') };
		throw { ...told, limit: broken[code], stored: status === 203, again: status >= 500 };
	}

	// Names.

	/** Without what a form would change (line breaks), OSS refuses (a backslash in front), and the
	 * server refuses (a way out of the folder). @param {string} path */
	function clean(path) {
		const parts = path.replace(/[\p{Cc}\p{Cs}]/gu, '_').split('/');
		const names = parts.filter((part) => !/^\.{0,2}$/.test(part));
		// To Windows a backslash is a slash as well.
		const bad = /(^|\\)\.{0,2}(\\|$)/;
		return names.map((name) => (bad.test(name) ? name.replaceAll('\\', '_') : name)).join('/');
	}

	/** Case and Unicode form make no other name on many disks.
	 * @param {string} name */
	const fold = (name) => name.normalize('NFC').toLowerCase();

	/** Gives an upload a target that no other has, by a number.
	 * @param {Upload} upload */
	function claim(upload) {
		const { folder, path, random } = /** @type {Placement} */ (placements.get(upload));
		const base = fold(folder + path);
		let name = path;
		while (!random && taken.has(fold(folder + name))) {
			const number = (numbers.get(base) ?? 0) + 1;
			numbers.set(base, number);
			name = path.replace(/([^/])((?:\.tar)?\.[^./]+)?$/, `$1 (${number})$2`);
		}
		Object.assign(upload, { name, target: folder + (random || name) });
		taken.add(fold(upload.target));
		holders.add(upload);
	}

	/** Nothing is stored under its target, so others may have it. @param {Upload} upload */
	function release(upload) {
		if (holders.delete(upload)) taken.delete(fold(upload.target));
	}

	/** 24 characters and the suffix. @param {string} name */
	function randomName(name) {
		const letters = 'abcdefghijkmnpqrstuvwxyz23456789';
		const random = [...crypto.getRandomValues(new Uint8Array(24))];
		const suffix = name.lastIndexOf('.') > 0 ? name.slice(name.lastIndexOf('.')) : '';
		return random.map((byte) => letters[byte % 32]).join('') + clean(suffix);
	}

	/** From another frame too. @param {any} value @returns {value is File} */
	const isFile = (value) => Object.prototype.toString.call(value) === '[object File]';

	/** @param {any} files what was given to `add` @returns {FoundFile[]} */
	function listOf(files) {
		const one = isFile(files) || isFile(files?.file) || !files?.[Symbol.iterator];
		return Array.from(one ? [files ?? []].flat() : files, (item, index) => {
			if (isFile(item)) return { file: item, path: '' };
			if (isFile(item?.file)) return item;
			const what = Object.prototype.toString.call(item).slice(8, -1);
			throw TypeError(`add: item ${index} is no File but ${what}`);
		});
	}

	/** @param {Upload} upload */
	function stop(upload) {
		if (!FOLLOWS[upload.state].includes('cancelled')) return;
		const job = jobs.get(upload);
		jobs.delete(upload);
		noteStored(upload, { code: 'Cancelled' });
		enter(upload, 'cancelled');
		job?.stop.abort();
	}

	/** @type {Uploader} */
	const uploader = {
		options,
		uploads,

		add(files, { random = false, folder = '', fields = {}, signal } = {}) {
			if (lifetime.signal.aborted) throw Error('add: this uploader was destroyed');
			signal?.throwIfAborted();
			const prefix = clean(`${folder}/`);
			const added = listOf(files).map(({ file, path }) => {
				/** @type {Upload} */
				const upload = {
					file, name: '', target: '', key: '', url: '', state: 'waiting', stored: 'no',
					loaded: 0, rate: 0, left: Infinity, tries: 0, pause: '', error: null, answer: undefined,
				};
				placements.set(upload, {
					folder: prefix && `${prefix}/`,
					path: clean(path || file.webkitRelativePath || file.name) || '_',
					random: random ? randomName(file.name) : '',
					fields,
					signal,
				});
				claim(upload);
				return upload;
			});
			uploads.push(...added);
			// It holds no upload, so that removed ones are freed.
			const cancel = () => {
				uploads.filter((upload) => placements.get(upload)?.signal === signal).forEach(stop);
				fill();
			};
			signal?.addEventListener('abort', cancel, listen);
			for (const upload of added) {
				const error = current && refuse(upload, current);
				if (error) enter(upload, 'failed', { error });
				else notify(upload);
			}
			fill();
			return added;
		},

		cancel(upload) {
			(upload ? [upload] : [...uploads]).forEach(stop);
			fill();
		},

		retry(upload) {
			if (lifetime.signal.aborted) return;
			for (const one of uploads.filter((one) => !upload || one === upload)) {
				const refused = !upload && one.error?.refused;
				if (one.pause) jobs.get(one)?.wake();
				else if (one.state === 'cancelled' || (one.state === 'failed' && !refused)) {
					if (!holders.has(one)) claim(one);
					enter(one, 'waiting', { loaded: 0, tries: 0, error: null });
				}
			}
			fill();
		},

		remove(upload) {
			uploads.splice(uploads.indexOf(upload) >>> 0, 1);
			stop(upload);
			settle();
			fill();
		},

		limits: async () => (await currentPolicy()).limits,

		refresh() {
			current = asking = null;
			return uploader.limits();
		},

		total() {
			const sum = { files: 0, done: 0, active: 0, failed: 0, unconfirmed: 0, cancelled: 0 };
			const bytes = { size: 0, loaded: 0, rate: 0, rest: 0 };
			for (const { state, stored, file, loaded, rate } of uploads) {
				const active = !isEnd(state);
				const unsure = state === 'failed' && stored !== 'no';
				sum.files += 1;
				sum[active ? 'active' : unsure ? 'unconfirmed' : /** @type {'done'} */ (state)] += 1;
				bytes.size += file.size;
				bytes.rate += rate;
				if (active || state === 'done') bytes.loaded += loaded;
				if (active) bytes.rest += file.size - loaded;
			}
			return { ...sum, ...bytes };
		},

		settled: () =>
			new Promise((resolve) => {
				waiters.push(resolve);
				settle();
			}),

		async filesOf({ items }) {
			/** @type {FoundFile[]} */
			const found = [];
			/** @param {any} entry a FileSystemEntry @param {File|null} [file] */
			const walk = async (entry, file) => {
				if (entry?.isDirectory) {
					const reader = entry.createReader();
					for (let some = [0]; some.length; ) {
						some = await new Promise((then) => reader.readEntries(then, () => then([])));
						for (const inner of some) await walk(inner);
					}
				} else {
					const path = file ? '' : entry.fullPath.slice(1);
					file ??= await new Promise((then) => entry.file(then, () => then(null)));
					if (file) found.push({ file, path });
				}
			};
			const files = [...items].filter(({ kind }) => kind === 'file');
			const both = files.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
			for (const { entry, file } of both) await walk(entry, file);
			return found;
		},

		destroy() {
			lifetime.abort();
			current = asking = null; // `onlimits` is not called later
			uploader.cancel();
		},
	};
	options.signal?.addEventListener('abort', uploader.destroy, listen);
	if (options.signal?.aborted) uploader.destroy();
	return uploader;
}

globalThis.createUploader = createUploader;
